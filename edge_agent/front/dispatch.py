"""Carries out what the schedulers say: links to workers, answers to waiting requests, facts for the runtime.

No HTTP here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import structs

from edge_agent.front import scheduler as sched
from edge_agent.front.errors import ComputeFailed, RequestError
from edge_agent.front.link import Answer, WorkerLink, fingerprint
from edge_agent.front.metrics import FrontMetrics
from edge_agent.front.protocol import InferRequest, OutputTensor
from edge_agent.front.routes import ModelRoute, Routes, WorkerAddress
from edge_agent.front.trial import Trial
from edge_agent.front.waiting import Copy, Waiting, digests_of, respond, settle, with_comparable_share
from edge_agent.worker import wire

if TYPE_CHECKING:
    from edge_agent.front.observing import Observer

log = structlog.get_logger()

TICK_S = 0.05  # deadlines are met to this precision
RECONNECT_S = 0.25  # a routed worker without a link is tried again after this time

OBSERVED_S = 1.0  # how often the runtime is told what was counted

Tell = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a request may take; from agent.toml."""

    hold_s: float
    deadline_s: float
    queue_max: int
    body_bytes_max: int


class Dispatcher:
    """All models of this front."""

    def __init__(self, bounds: Bounds, metrics: FrontMetrics, tell: Tell) -> None:
        self.routes = Routes(0, {})
        self._bounds = bounds
        self._metrics = metrics
        self._tell = tell
        self._schedulers: dict[str, sched.ModelScheduler] = {}
        self._trials: dict[str, Trial] = {}
        self._observer: Observer | None = None  # a while after something is watched first, and from then on
        self._importing: asyncio.Task[None] | None = None
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
        models = {model: with_comparable_share(model, route) for model, route in routes.models.items()}
        routes = self.routes = structs.replace(routes, models=models)
        self._watch()
        opening = []
        for model, route in routes.models.items():
            if model not in self._schedulers:
                self._schedulers[model] = sched.ModelScheduler(self._bounds.queue_max, self._bounds.deadline_s)
            if route.share is not None:  # set at once: a trial without a candidate is over, and forgotten
                self._trials.setdefault(model, Trial(self._bounds.deadline_s)).set_share(route.share)
            new = [worker for worker in route.workers if worker.worker_id not in self._links]
            opening += self._open_missing(model, route)
            if self._schedulers[model].route.digest == route.digest or not new:
                self._follow(model, route)
        await asyncio.gather(*opening)
        for model, route in routes.models.items():
            if self.routes is routes:
                self._follow(model, route)
        wanted = {digest for route in routes.models.values() for digest in digests_of(route)}
        wanted |= {link.digest for _, link in self._links.values()}
        self._served = {digest: route for digest, route in self._served.items() if digest in wanted}

    def _watch(self) -> None:
        """Count the answers of what is watched from now on; what was counted until now is told first."""
        routes = self.routes.models.items()
        watched = {digest: model for model, route in routes if route.watched for digest in digests_of(route)}
        if self._observer is not None:
            self._observer.tell(self._tell)
            self._observer.watch(watched)
        elif watched and self._importing is None:  # no route waits for an import
            self._importing = asyncio.create_task(self._import_observer())

    async def _import_observer(self) -> None:
        self._observer = await asyncio.to_thread(_new_observer)
        self._watch()

    def _follow(self, model: str, route: ModelRoute) -> None:
        """Requests go where this route says; a worker that changes sides, from candidate to active, keeps its jobs."""
        scheduler, trial, now_s = self._schedulers[model], self._trials.get(model), time.monotonic()
        if route.digest is not None:
            self._served[route.digest] = route
        if trial is None:
            self._apply(model, scheduler.set_route(route, now_s))
            return
        trial.set_share(route.share)
        if route.share is not None:
            self._served[route.share.digest] = trial.route
        for workers, own, other in (
            (route.workers, scheduler, trial.scheduler),
            (trial.route.workers, trial.scheduler, scheduler),
        ):
            for worker in workers:
                if other.has(worker.worker_id):
                    other.hand_over(worker.worker_id, to=own)
        self._apply(model, scheduler.set_route(route, now_s))
        self._apply(model, trial.scheduler.set_route(trial.route, now_s))
        self._apply(model, trial.scheduler.tick(now_s))  # whoever waits for a candidate that is gone
        self._metrics.note_share(model, route.share)

    def _open_missing(self, model: str, route: ModelRoute) -> list[asyncio.Task[None]]:
        """Begin to reach every worker of this route that has no link yet."""
        sides: list[tuple[str | None, tuple[WorkerAddress, ...]]] = [(route.digest, route.workers)]
        if route.share is not None:
            sides.append((route.share.digest, route.share.workers))
        return [
            self._opening(model, digest, worker)
            for digest, workers in sides
            for worker in workers
            if digest is not None and worker.worker_id not in self._links and os.path.exists(worker.socket)
        ]

    def _opening(self, model: str, digest: str, worker: WorkerAddress) -> asyncio.Task[None]:
        """Begin to reach a worker. Its link stands from this very moment on, so that nobody opens a second one."""
        task = asyncio.create_task(self._open(model, self._new_link(model, digest, worker), worker))
        self._reaching.add(task)
        task.add_done_callback(self._reaching.discard)
        return task

    def _new_link(self, model: str, digest: str, worker: WorkerAddress) -> WorkerLink | None:
        slot_bytes = 2 * self._bounds.body_bytes_max  # inputs and outputs, with room to align them
        try:
            link = WorkerLink(worker.worker_id, digest, slot_bytes, self._on_answer, self._on_free, self._on_lost)
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
            scheduler, share = self._schedulers[model], self.routes.models[model].share
            if share is not None and worker in share.workers:
                scheduler = self._trials[model].scheduler
            self._apply(model, scheduler.connected(worker.worker_id, link.digest, time.monotonic()))

    async def infer(
        self, model: str, route: ModelRoute, request: InferRequest, *, any_version: bool = True
    ) -> tuple[bytes, int | None, ModelRoute]:
        """Compute; response body, its JSON length if binary data follow, and the route that computed it.

        any_version: the client does not mind which, so that a candidate may answer. Raises RequestError.
        """
        now_s = time.monotonic()
        future: asyncio.Future[tuple[bytes, int | None, ModelRoute]] = asyncio.get_running_loop().create_future()
        waiting = Waiting(request, future, route, now_s + self._bounds.deadline_s)
        # no share before its answers can be looked at: whoever is asked then must not get NaN
        trial = self._trials.get(model) if any_version and self._observer is not None else None
        self._unanswered += 1
        self._idle.clear()
        try:
            if trial is not None and trial.route.same_interface(route) and trial.takes_request():
                waiting.job = trial.job(waiting, now_s)
                self._apply(model, trial.scheduler.submit(waiting.job, now_s))
            else:
                waiting.job = self._own_job(waiting, now_s)
                self._apply(model, self._schedulers[model].submit(waiting.job, now_s))
            return await future
        except asyncio.CancelledError:
            if waiting.job is not None:
                for scheduler in self._sides(model):
                    self._apply(model, scheduler.cancel(waiting.job, time.monotonic()))
            raise
        finally:
            self._unanswered -= 1
            if not self._unanswered:
                self._idle.set()

    def _own_job(self, waiting: Waiting, now_s: float) -> sched.Job:
        return sched.Job(waiting, waiting.route, waiting.deadline_s, now_s + self._bounds.hold_s)

    def _sides(self, model: str) -> list[sched.ModelScheduler]:
        """The schedulers of this model: the candidate's first, since what it cannot answer goes to the other one."""
        trial = self._trials.get(model)
        own = self._schedulers[model]
        return [own] if trial is None else [trial.scheduler, own]

    def _side_of(self, model: str, worker_id: str) -> sched.ModelScheduler:
        """The scheduler to which this worker is connected."""
        trial = self._trials.get(model)
        return trial.scheduler if trial is not None and trial.scheduler.has(worker_id) else self._schedulers[model]

    async def run(self) -> None:
        """Let time pass for all schedulers, until cancelled."""
        reach_again_s = tell_again_s = 0.0
        while True:  # one pass a tick; ends by cancellation
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            if now_s >= reach_again_s:
                reach_again_s = now_s + RECONNECT_S
                self.reach_again()
            for model in self._schedulers:
                sides = self._sides(model)
                for scheduler in sides:
                    self._apply(model, scheduler.tick(now_s))
                waiting, in_flight = (sum(getattr(one, name) for one in sides) for name in ("waiting", "in_flight"))
                self._metrics.note_queue(model, waiting, in_flight)
            self._trials = {model: trial for model, trial in self._trials.items() if not trial.is_over}
            if self._observer is not None and now_s >= tell_again_s:
                tell_again_s = now_s + OBSERVED_S
                self._observer.tell(self._tell)

    def end(self) -> None:
        """Answer everything that waits."""
        for model in self._schedulers:
            for scheduler in self._sides(model):
                self._apply(model, scheduler.end())

    async def idle(self) -> None:
        """Return once nobody waits for an answer."""
        await self._idle.wait()

    def reach_again(self) -> None:
        """Routed workers that could not be reached, or were left because they broke the agreement."""
        for model, route in self.routes.models.items():
            self._open_missing(model, route)

    def _apply(self, model: str, commands: list[sched.Command]) -> None:
        for command in commands:
            match command:
                case sched.Send(worker_id, job):
                    self._links[worker_id][1].send(job)
                case sched.Fail(job, error):
                    self._fail(model, job, error)
                case sched.Released(worker_id):
                    self._release(worker_id)
                case sched.Lost():
                    self._tell_lost(model, command)
                case sched.Hung(worker_id, job):
                    self._count_failure(job)
                    self._tell_request("worker_hung", model, worker_id, job)

    def _fail(self, model: str, job: sched.Job, error: RequestError) -> None:
        """The client is told, unless the candidate alone has failed: then the active snapshot is asked."""
        if isinstance(job.payload, Copy):
            self._metrics.note_copy(model, job.route.version, "failed")
        elif not job.once:
            settle(job, error=error)
        else:
            self._ask_active(model, job)

    def _ask_active(self, model: str, job: sched.Job) -> None:
        waiting: Waiting = job.payload
        job.over = True
        if waiting.future.done():
            return
        now_s = time.monotonic()
        self._metrics.note_returned(model, job.route.version)
        waiting.job = self._own_job(waiting, now_s)
        self._apply(model, self._schedulers[model].take_over(waiting.job, now_s))

    def _count_failure(self, job: sched.Job) -> None:
        if self._observer is not None:
            self._observer.failed(job.route.digest)

    def _release(self, worker_id: str) -> None:
        found = self._links.pop(worker_id, None)
        if found is not None:
            found[1].close()
        self._tell({"event": "released", "worker_id": worker_id})

    def _tell_lost(self, model: str, lost: sched.Lost) -> None:
        if lost.suspect is None:
            return
        if lost.suspect.once and not lost.hung:
            self._count_failure(lost.suspect)
        self._metrics.note_lost(model, replayed=lost.replayed)
        self._tell_request("worker_lost", model, lost.worker_id, lost.suspect)
        if lost.poison:
            self._tell_request("poison", model, lost.worker_id, lost.suspect)

    def _tell_request(self, event: str, model: str, worker_id: str, job: sched.Job) -> None:
        name = fingerprint(model, job.payload.request)
        log.warning(event, model=model, worker=worker_id, snapshot=job.route.digest, request=name)
        self._tell({"event": event, "worker_id": worker_id, "model": model, "digest": job.route.digest,
                    "request_fingerprint": name})  # fmt: skip

    def _on_answer(self, link: WorkerLink, job: sched.Job, answer: Answer) -> None:
        found = self._links.get(link.worker_id)
        if found is None or job.over:
            return
        model, route = found[0], self._served.get(link.digest, job.route)
        if isinstance(job.payload, Copy):
            self._compare(model, link, job, answer)
            return
        unsayable: RequestError | None = None
        try:
            result = respond(model, route, job.payload.request, answer)
        except ComputeFailed as error:
            self._count_failure(job)
            self._fail(model, job, error)
            return
        except RequestError as error:
            unsayable = error
        finite = self._observed(model, link, job, answer)
        if job.once and not finite:
            self._ask_active(model, job)
        elif unsayable is not None:
            settle(job, error=unsayable)
        else:
            settle(job, result=(*result, route))
            if self._trials:
                self._offer_copy(model, link, job, answer)

    def _observed(self, model: str, link: WorkerLink, job: sched.Job, answer: Answer) -> bool:
        """Count an answer to a live request; whether all its numbers are finite, as far as anybody looks."""
        if self._observer is None or answer.code != wire.OK:
            return True
        return self._observer.answered(link.digest, answer.outputs, self._took_s(model, link), look=job.once)

    def _took_s(self, model: str, link: WorkerLink) -> float:
        """The worker's own time for the answer that it has just given."""
        return self._side_of(model, link.worker_id).busy_s(link.worker_id, time.monotonic())

    def _offer_copy(self, model: str, link: WorkerLink, job: sched.Job, answer: Answer) -> None:
        """The client has its answer: the candidate may compute the same, if it has nothing else to do."""
        trial = self._trials.get(model)
        if trial is None or job.once or trial.share is None or trial.share.percent or answer.code != wire.OK:
            return
        if link.digest != self._schedulers[model].route.digest or not trial.takes_copy():
            self._metrics.note_copy(model, trial.route.version, "dropped")
            return
        outputs = tuple(OutputTensor(one.dtype, one.dims, memoryview(bytes(one.data))) for one in answer.outputs)
        now_s = time.monotonic()
        copy = trial.job(Copy(job.payload.request, outputs), now_s)
        self._apply(model, trial.scheduler.submit(copy, now_s))

    def _compare(self, model: str, link: WorkerLink, job: sched.Job, answer: Answer) -> None:
        """What the candidate said to a copy, beside what the client was told; nobody else sees it."""
        copy: Copy = job.payload
        if answer.code != wire.OK or self._observer is None:
            self._count_failure(job)
            self._metrics.note_copy(model, job.route.version, "failed")
            return
        alike = self._observer.compared(link.digest, answer.outputs, copy.outputs, self._took_s(model, link))
        self._metrics.note_copy(model, job.route.version, "agreed" if alike else "disagreed")

    def _on_free(self, link: WorkerLink, job: sched.Job) -> None:
        found = self._links.get(link.worker_id)
        if found is not None:
            side = self._side_of(found[0], link.worker_id)
            self._apply(found[0], side.answered(link.worker_id, job, time.monotonic()))

    def _on_lost(self, link: WorkerLink) -> None:
        found = self._links.pop(link.worker_id, None)
        if found is not None:
            side = self._side_of(found[0], link.worker_id)
            self._apply(found[0], side.lost(link.worker_id, time.monotonic(), link.has_begun()))


def _new_observer() -> Observer:
    from edge_agent.front.observing import Observer  # with numpy, which a front needs for this alone

    return Observer()
