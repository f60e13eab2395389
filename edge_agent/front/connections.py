"""Clients' connections: how many there may be, and a JSON answer to bytes that are no HTTP. Requests are `http`'s."""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

log = structlog.get_logger()

CONNECTIONS_MAX = 4096
DESCRIPTORS_KEPT = 128  # for workers, the runtime and the front itself


def raise_descriptor_limit() -> int:
    """Take as many descriptors as the system gives; how many connections of clients that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max(1, min(CONNECTIONS_MAX, soft - DESCRIPTORS_KEPT))


class Connection(web.RequestHandler):
    """One client, with the protocol's form of an error."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's word for: this is no HTTP, or our handler raised. The connection is closed after it."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        if isinstance(exc, HttpProcessingError):
            log.info("malformed_http", detail=" ".join(str(exc).split())[:200])
        else:
            log.error("front_bug", exc_info=exc)
        text = " ".join((message or HTTPStatus(status).phrase).split())[:500]
        response = web.json_response({"error": text}, status=status)
        response.force_close()
        return response


class ConnectionServer(web.Server):
    """Makes connections, at most `connections_max`: for one more, the one that has been idle longest is closed."""

    def __init__(self, application: web.Server, connections_max: int, **settings: Any) -> None:
        super().__init__(self._handle, request_factory=application.request_factory, handler_cancellation=True)
        self._application = application.request_handler
        self._connections_max = connections_max
        self._settings = settings
        self._open: set[web.RequestHandler] = set()
        self._idle: dict[web.RequestHandler, None] = {}  # in the order in which they became idle

    def __call__(self) -> Connection:
        """asyncio asks for the protocol of a new connection."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._settings)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """A client has come."""
        super().connection_made(handler, transport)
        self._open.add(handler)
        self._idle[handler] = None
        if len(self._open) > self._connections_max:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            oldest.force_close()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """A client has gone."""
        super().connection_lost(handler, exc)
        self._forget(handler)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        client = request.protocol
        self._idle.pop(client, None)
        try:
            return await self._application(request)
        finally:
            if client in self._open:
                self._idle[client] = None

    def _forget(self, handler: web.RequestHandler) -> None:
        self._open.discard(handler)
        self._idle.pop(handler, None)
