"""Errors as HTTP answers, translated in one place; which errors there are is told in `edge_agent.contract.errors`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from cloud_sync.coordinator.intents import Unknown
from cloud_sync.repository.intake import Conflict, Missing
from edge_agent.contract.errors import HoldfastError, Rejected
from edge_agent.contract.reasons import Reason

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def speaks_of_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors of ours become {"ok": false, "reason", "message", "next_step"} with their status."""
    try:
        return await handler(request)
    except HoldfastError as error:
        return web.json_response(error.document(), status=status_of(error))
    except web.HTTPRequestEntityTooLarge:
        too_large = Rejected("the body is larger than any can be", reason=Reason.TOO_LARGE)
        return web.json_response(too_large.document(), status=413)
    except web.HTTPException as error:
        return answer(error.status, f"{request.method} {request.path}: {error.reason}", "See docs/coordinator.md")
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return answer(500, "a bug of the coordinator; its log has the trace", "Report it with the log")


def status_of(error: HoldfastError) -> int:
    """The HTTP status that says whose fault it is."""
    if not isinstance(error, Rejected):
        return 503
    if isinstance(error, Unknown):
        return 404
    if isinstance(error, Conflict | Missing) or error.reason is Reason.VERSION_CONFLICT:
        return 409
    if error.reason is Reason.NOT_AUTHORIZED:
        return 401
    return 413 if error.reason is Reason.TOO_LARGE else 400


def answer(status: int, message: str, next_step: str) -> web.Response:
    """What is said where HTTP itself, and none of our errors, has the status."""
    return web.json_response(Rejected(message, next_step=next_step).document(), status=status)
