"""A request on its way through this front: who waits for the answer, and what becomes of a worker's words. Which worker
gets it is `scheduler`'s, sending it is `dispatch`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import structlog
from msgspec import structs

from edge_agent.front import scheduler as sched
from edge_agent.front.errors import BadRequest, ComputeFailed, RequestError
from edge_agent.front.link import Answer
from edge_agent.front.protocol import InferRequest, OutputTensor, build_response
from edge_agent.front.routes import ModelRoute
from edge_agent.front.trial import can_be_tried
from edge_agent.worker import wire

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Waiting:
    """A request with the future that its handler waits for: (body, JSON bytes or None, route that computed it).

    route: the one that it was checked against. job: as which it is on its way now; first of the candidate's share,
    perhaps, and then to the active snapshot.
    """

    request: InferRequest
    future: asyncio.Future[tuple[bytes, int | None, ModelRoute]]
    route: ModelRoute
    deadline_s: float
    job: sched.Job | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Copy:
    """A request that was answered already, for the candidate; outputs: what the active snapshot said, copied."""

    request: InferRequest
    outputs: tuple[OutputTensor, ...]


def digests_of(route: ModelRoute) -> list[str]:
    """Of what serves, and of the candidate beside it."""
    found = (route.digest, route.share.digest if route.share else None)
    return [digest for digest in found if digest is not None]


def respond(model: str, route: ModelRoute, request: InferRequest, answer: Answer) -> tuple[bytes, int | None]:
    """Response body, and its JSON length if binary data follow. Raises RequestError."""
    if answer.code == wire.OK:
        if [output.dtype for output in answer.outputs] != [spec.dtype for spec in route.outputs]:
            raise ComputeFailed("the engine gave other outputs than the manifest says")
        return build_response(model, route, request, answer.outputs)
    if answer.code == wire.BAD_REQUEST:
        raise BadRequest(answer.text)
    raise ComputeFailed(answer.text)


def settle(job: sched.Job, *, result: Any = None, error: RequestError | None = None) -> None:
    """Tell whoever waits for this job, if anybody still does."""
    waiting: Waiting = job.payload
    if waiting.future.done():
        return
    with contextlib.suppress(asyncio.InvalidStateError):
        if error is not None:
            waiting.future.set_exception(error)
        else:
            waiting.future.set_result(result)


def with_comparable_share(model: str, route: ModelRoute) -> ModelRoute:
    """Without a candidate that takes or gives other tensors: no request is sent to it."""
    if route.share is None or can_be_tried(route):
        return route
    log.warning("candidate_not_comparable", model=model, snapshot=route.share.digest)
    return structs.replace(route, share=None)
