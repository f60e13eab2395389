"""Carries out what the schedulers say: links to workers, answers to waiting requests, facts for the runtime.

No HTTP here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from edge_agent.front import scheduler as sched
from edge_agent.front.errors import BadRequest, ComputeFailed, RequestError
from edge_agent.front.link import Answer, WorkerLink, fingerprint
from edge_agent.front.metrics import FrontMetrics
from edge_agent.front.protocol import InferRequest, build_response
from edge_agent.front.routes import ModelRoute, Routes, WorkerAddress
from edge_agent.worker import wire

log = structlog.get_logger()

TICK_S = 0.05  # deadlines are met to this precision
RECONNECT_S = 0.25  # a routed worker without a link is tried again after this time

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a request may take; from agent.toml."""

    hold_s: float
    deadline_s: float
    queue_max: int
    body_bytes_max: int


@dataclass(eq=False, slots=True)
class Waiting:
    """A request with the future that its handler waits for: (body, JSON bytes or None, route that computed it)."""

    request: InferRequest
    future: asyncio.Future[tuple[bytes, int | None, ModelRoute]]


class Dispatcher:
    """All models of this front."""

    def __init__(self, bounds: Bounds, metrics: FrontMetrics, tell: Tell) -> None:
        self.routes = Routes(0, {})
        self._bounds = bounds
        self._metrics = metrics
        self._tell = tell
        self._schedulers: dict[str, sched.ModelScheduler] = {}
        self._links: dict[str, tuple[str, WorkerLink]] = {}
        self._served: dict[str, ModelRoute] = {}
        self._reaching: set[asyncio.Task[None]] = set()
        self._unanswered = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def ready(self, model: str) -> bool:
        """Whether a live worker of this model could take a request now."""
        scheduler = self._schedulers.get(model)
        return scheduler is not None and scheduler.is_ready()

    async def set_routes(self, routes: Routes) -> None:
        """Follow new routes; returns once requests really go where they say (or nobody is there to go to)."""
        self.routes = routes
        opening = []
        for model, route in routes.models.items():
            if model not in self._schedulers:
                self._schedulers[model] = sched.ModelScheduler(self._bounds.queue_max, self._bounds.deadline_s)
            scheduler = self._schedulers[model]
            if route.digest is not None:
                self._served[route.digest] = route
            new = [worker for worker in route.workers if worker.worker_id not in self._links]
            opening += [self._opening(model, route, worker) for worker in new]
            if scheduler.route.digest == route.digest or not new:
                self._apply(model, scheduler.set_route(route, time.monotonic()))
        await asyncio.gather(*opening)
        for model, route in routes.models.items():
            if self.routes is routes:
                self._apply(model, self._schedulers[model].set_route(route, time.monotonic()))
        wanted = {route.digest for route in routes.models.values()} | {d.digest for _, d in self._links.values()}
        self._served = {digest: route for digest, route in self._served.items() if digest in wanted}

    def _opening(self, model: str, route: ModelRoute, worker: WorkerAddress) -> asyncio.Task[None]:
        """Begin to reach a worker. Its link stands from this very moment on, so that nobody opens a second one."""
        task = asyncio.create_task(self._open(model, self._new_link(model, route, worker), worker))
        self._reaching.add(task)
        task.add_done_callback(self._reaching.discard)
        return task

    def _new_link(self, model: str, route: ModelRoute, worker: WorkerAddress) -> WorkerLink | None:
        assert route.digest is not None
        slot_bytes = 2 * self._bounds.body_bytes_max  # inputs and outputs, with room to align them
        try:
            link = WorkerLink(worker.worker_id, route.digest, slot_bytes, self._on_answer, self._on_free, self._on_lost)
        except OSError as error:
            log.warning("worker_not_reached", model=model, worker=worker.worker_id, detail=str(error))
            return None
        self._links[worker.worker_id] = (model, link)
        return link

    async def _open(self, model: str, link: WorkerLink | None, worker: WorkerAddress) -> None:
        if link is None:
            return
        try:
            await link.open(worker.socket)
        except (OSError, wire.WireError) as error:
            log.warning("worker_not_reached", model=model, worker=worker.worker_id, detail=str(error))
            link.close()
            return
        if self._links.get(worker.worker_id) == (model, link):  # it may be gone again already
            self._apply(model, self._schedulers[model].connected(worker.worker_id, link.digest, time.monotonic()))

    async def infer(self, model: str, route: ModelRoute, request: InferRequest) -> tuple[bytes, int | None, ModelRoute]:
        """Compute; response body, its JSON length if binary data follow, and the route that computed it.

        Raises RequestError.
        """
        now_s = time.monotonic()
        waiting = Waiting(request, asyncio.get_running_loop().create_future())
        job = sched.Job(waiting, route, now_s + self._bounds.deadline_s, now_s + self._bounds.hold_s)
        scheduler = self._schedulers[model]
        self._unanswered += 1
        self._idle.clear()
        try:
            self._apply(model, scheduler.submit(job, now_s))
            return await waiting.future
        except asyncio.CancelledError:
            self._apply(model, scheduler.cancel(job, time.monotonic()))
            raise
        finally:
            self._unanswered -= 1
            if not self._unanswered:
                self._idle.set()

    async def run(self) -> None:
        """Let time pass for all schedulers, until cancelled."""
        reach_again_s = 0.0
        while True:  # one pass a tick; ends by cancellation
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            if now_s >= reach_again_s:
                reach_again_s = now_s + RECONNECT_S
                self.reach_again()
            for model, scheduler in self._schedulers.items():
                self._apply(model, scheduler.tick(now_s))
                self._metrics.note_queue(model, scheduler.waiting, scheduler.in_flight)

    def end(self) -> None:
        """Answer everything that waits."""
        for model, scheduler in self._schedulers.items():
            self._apply(model, scheduler.end())

    async def idle(self) -> None:
        """Return once nobody waits for an answer."""
        await self._idle.wait()

    def reach_again(self) -> None:
        """Routed workers that could not be reached, or were left because they broke the agreement."""
        for model, route in self.routes.models.items():
            for worker in route.workers:
                if worker.worker_id not in self._links and os.path.exists(worker.socket):
                    self._opening(model, route, worker)

    def _apply(self, model: str, commands: list[sched.Command]) -> None:
        for command in commands:
            match command:
                case sched.Send(worker_id, job):
                    self._links[worker_id][1].send(job)
                case sched.Fail(job, error):
                    _settle(job, error=error)
                case sched.Released(worker_id):
                    self._release(worker_id)
                case sched.Lost():
                    self._tell_lost(model, command)
                case sched.Hung(worker_id, job):
                    self._tell_request("worker_hung", model, worker_id, job)

    def _release(self, worker_id: str) -> None:
        found = self._links.pop(worker_id, None)
        if found is not None:
            found[1].close()
        self._tell({"event": "released", "worker_id": worker_id})

    def _tell_lost(self, model: str, lost: sched.Lost) -> None:
        if lost.suspect is None:
            return
        self._metrics.note_lost(model, replayed=lost.replayed)
        self._tell_request("worker_lost", model, lost.worker_id, lost.suspect)
        if lost.poison:
            self._tell_request("poison", model, lost.worker_id, lost.suspect)

    def _tell_request(self, event: str, model: str, worker_id: str, job: sched.Job) -> None:
        waiting: Waiting = job.payload
        name = fingerprint(model, waiting.request)
        log.warning(event, model=model, worker=worker_id, snapshot=job.route.digest, request=name)
        self._tell({"event": event, "worker_id": worker_id, "model": model, "digest": job.route.digest,
                    "request_fingerprint": name})  # fmt: skip

    def _on_answer(self, link: WorkerLink, job: sched.Job, answer: Answer) -> None:
        found = self._links.get(link.worker_id)
        if found is None:
            return
        model = found[0]
        waiting: Waiting = job.payload
        if not waiting.future.done():
            try:
                route = self._served.get(link.digest, job.route)
                _settle(job, result=(*_respond(model, route, waiting.request, answer), route))
            except RequestError as error:
                _settle(job, error=error)

    def _on_free(self, link: WorkerLink, job: sched.Job) -> None:
        found = self._links.get(link.worker_id)
        if found is not None:
            self._apply(found[0], self._schedulers[found[0]].answered(link.worker_id, job, time.monotonic()))

    def _on_lost(self, link: WorkerLink) -> None:
        found = self._links.pop(link.worker_id, None)
        if found is not None:
            self._apply(found[0], self._schedulers[found[0]].lost(link.worker_id, time.monotonic(), link.has_begun()))


def _respond(model: str, route: ModelRoute, request: InferRequest, answer: Answer) -> tuple[bytes, int | None]:
    if answer.code == wire.OK:
        if [output.dtype for output in answer.outputs] != [spec.dtype for spec in route.outputs]:
            raise ComputeFailed("the engine gave other outputs than the manifest says")
        return build_response(model, route, request, answer.outputs)
    if answer.code == wire.BAD_REQUEST:
        raise BadRequest(answer.text)
    raise ComputeFailed(answer.text)


def _settle(job: sched.Job, *, result: Any = None, error: RequestError | None = None) -> None:
    waiting: Waiting = job.payload
    if waiting.future.done():
        return
    with contextlib.suppress(asyncio.InvalidStateError):
        if error is not None:
            waiting.future.set_exception(error)
        else:
            waiting.future.set_result(result)
