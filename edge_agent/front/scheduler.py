"""Which request goes to which worker, pure: facts and the time in, commands out. Sockets and memory are `link`'s.

One scheduler per model. The first worker of the route computes, with one request waiting at it so that it never idles;
the others stand by. A worker that dies takes no answer with it: what it had not begun goes to another one, the request
that it was computing is replayed once, alone, to the same snapshot (or to what has taken its place), and a second
death with the same request is the request's fault. Who does not answer in time is hung: the others take over, and the
runtime is told.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from edge_agent.front.errors import ComputeFailed, DeadlinePassed, NotServing, Overloaded, RequestError
from edge_agent.front.routes import ModelRoute

IN_FLIGHT_MAX = 2  # one is computed, one waits in the worker's socket
RETURNS_MAX = 3  # of a request whose workers died before they began with it; beyond that they only pretend


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way. Times in monotonic seconds; `route` is the one it was checked against.

    replays: after a death while it was computed. returns: after a death before that.
    over: it is answered already, or nobody waits for the answer any more; a worker may still be computing it.
    once: not replayed, and no death speaks against it: another scheduler takes it, or nobody does.
    """

    payload: Any
    route: ModelRoute
    deadline_s: float
    hold_until_s: float
    replays: int = 0
    returns: int = 0
    alone: bool = False
    over: bool = False
    once: bool = False


@dataclass(eq=False, slots=True)
class Seat:
    """A connected worker as the scheduler sees it; `jobs` in the order in which it computes them.

    busy_since_s: when it began with jobs[0].
    """

    worker_id: str
    digest: str
    jobs: list[Job] = field(default_factory=list)
    leaving: bool = False
    hung: bool = False
    busy_since_s: float = 0.0

    def reserved(self) -> bool:
        """Whether a replayed request has this worker for itself."""
        return any(job.alone for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Send:
    """Hand this job to that worker."""

    worker_id: str
    job: Job


@dataclass(frozen=True, slots=True)
class Fail:
    """Answer this job with an error."""

    job: Job
    error: RequestError


@dataclass(frozen=True, slots=True)
class Released:
    """Nothing is at this worker any more, and nothing will be."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker died; `suspect` is the job that it was computing, if any. poison: it was that job's second death.

    hung: that was said of it before.
    """

    worker_id: str
    suspect: Job | None
    poison: bool
    replayed: bool
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Hung:
    """A worker computes this job for too long."""

    worker_id: str
    job: Job


Command = Send | Fail | Released | Lost | Hung


class ModelScheduler:
    """Queue and workers of one model. hung_after_s: how long a worker may compute one job."""

    def __init__(self, queue_max: int, hung_after_s: float) -> None:
        self.route = ModelRoute(state="down")
        self._queue: deque[Job] = deque()
        self._seats: dict[str, Seat] = {}
        self._queue_max = queue_max
        self._hung_after_s = hung_after_s
        self._ended = False

    @property
    def waiting(self) -> int:
        """Jobs that no worker has yet."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Jobs at workers."""
        return sum(len(seat.jobs) for seat in self._seats.values())

    def is_ready(self) -> bool:
        """Whether a connected worker of the present route could take a request."""
        return bool(self._open_seats())

    def is_empty(self) -> bool:
        """Whether nothing waits, and no worker is connected."""
        return not self._queue and not self._seats

    def has(self, worker_id: str) -> bool:
        """Whether this worker is connected here."""
        return worker_id in self._seats

    def hand_over(self, worker_id: str, to: ModelScheduler) -> None:
        """This worker, with what it computes, belongs to another route of the model; that is still to be set."""
        to._seats[worker_id] = self._seats.pop(worker_id)

    def busy_s(self, worker_id: str, now_s: float) -> float:
        """How long this worker has been computing the oldest job that it has."""
        seat = self._seats.get(worker_id)
        return now_s - seat.busy_since_s if seat is not None and seat.jobs else 0.0

    def set_route(self, route: ModelRoute, now_s: float) -> list[Command]:
        """New requests follow the new route at once; workers that left it finish what they have."""
        self.route = route
        routed = {worker.worker_id for worker in route.workers}
        for seat in self._seats.values():
            seat.leaving = seat.worker_id not in routed
        self._put_in_order()
        return self._release_empty() + self._dispatch(now_s)

    def connected(self, worker_id: str, digest: str, now_s: float) -> list[Command]:
        """A worker can take requests. It may belong to a route that is still to come: then it waits for that."""
        routed = worker_id in {worker.worker_id for worker in self.route.workers}
        self._seats[worker_id] = Seat(worker_id, digest, leaving=digest == self.route.digest and not routed)
        self._put_in_order()
        return self._release_empty() + self._dispatch(now_s)

    def lost(self, worker_id: str, now_s: float, begun: bool) -> list[Command]:
        """A worker is gone, with whatever it had. begun: it had begun with the first of them."""
        seat = self._seats.pop(worker_id, None)
        if seat is None:
            return []
        suspect = seat.jobs[0] if seat.jobs else None
        if suspect is not None and not begun and suspect.returns < RETURNS_MAX:
            suspect.returns += 1
            suspect = None
        innocent = seat.jobs if suspect is None else seat.jobs[1:]
        for job in reversed(innocent):
            if not job.over:
                self._queue.appendleft(job)
        commands: list[Command] = []
        poison = suspect is not None and suspect.replays > 0
        replayed = suspect is not None and not (suspect.over or suspect.once or poison)
        if suspect is not None and replayed:
            suspect.replays, suspect.alone = 1, True
            self._queue.appendleft(suspect)
        elif suspect is not None and not suspect.over:
            commands.append(_fail(suspect, ComputeFailed("this request ended two workers and is not tried again")))
        commands.append(Lost(worker_id, suspect, poison, replayed, seat.hung))
        return commands + self._dispatch(now_s)

    def answered(self, worker_id: str, job: Job, now_s: float) -> list[Command]:
        """A worker has answered this job."""
        job.over = True
        seat = self._seats.get(worker_id)
        if seat is not None and job in seat.jobs:
            seat.jobs.remove(job)
            seat.hung, seat.busy_since_s = False, now_s
        return self._release_empty() + self._dispatch(now_s)

    def submit(self, job: Job, now_s: float) -> list[Command]:
        """A new request."""
        if self._ended:
            return [_fail(job, NotServing("the server is stopping"))]
        if len(self._queue) >= self._queue_max:
            return [_fail(job, Overloaded(f"{self._queue_max} requests are waiting already"))]
        self._queue.append(job)
        return self._dispatch(now_s)

    def take_over(self, job: Job, now_s: float) -> list[Command]:
        """A request that another scheduler has taken before and could not answer: it has waited, so it is the next one.

        It is not refused for a full queue: there are no more of them than that one may have.
        """
        if self._ended:
            return [_fail(job, NotServing("the server is stopping"))]
        self._queue.appendleft(job)
        return self._dispatch(now_s)

    def cancel(self, job: Job, now_s: float) -> list[Command]:
        """Nobody waits for this answer any more: what has not been sent is not computed, nothing is sent again."""
        job.over = True
        if job in self._queue:
            self._queue.remove(job)
        return self._dispatch(now_s)

    def tick(self, now_s: float) -> list[Command]:
        """Time has passed: end what waited too long, point out workers that hang."""
        commands: list[Command] = []
        for job in list(self._queue):
            if now_s >= job.deadline_s:
                self._queue.remove(job)
                commands.append(_fail(job, DeadlinePassed("the request waited too long for a worker")))
            elif now_s >= job.hold_until_s and not self.is_ready():
                self._queue.remove(job)
                commands.append(_fail(job, self._not_serving()))
        for seat in self._seats.values():
            late = [job for job in seat.jobs if not job.over and now_s >= job.deadline_s]
            commands += [_fail(job, DeadlinePassed("the model did not answer this request in time")) for job in late]
            if seat.jobs and not seat.hung and now_s >= seat.busy_since_s + self._hung_after_s:
                seat.hung = True
                commands.append(Hung(seat.worker_id, seat.jobs[0]))
        return commands + self._dispatch(now_s)

    def end(self) -> list[Command]:
        """No more worker will come: answer what waits, and whatever still arrives."""
        self._ended = True
        jobs, self._queue = list(self._queue), deque()
        return [_fail(job, NotServing("the server is stopping")) for job in jobs]

    def _not_serving(self) -> RequestError:
        reason = f": {self.route.reason}" if self.route.reason else ""
        return NotServing(f"no worker serves this model now (state {self.route.state}{reason})")

    def _put_in_order(self) -> None:
        """The first worker of the route is the first to be asked, whenever it was connected."""
        order = {worker.worker_id: place for place, worker in enumerate(self.route.workers)}
        self._seats = dict(sorted(self._seats.items(), key=lambda item: order.get(item[0], len(order))))

    def _release_empty(self) -> list[Command]:
        empty = [seat.worker_id for seat in self._seats.values() if seat.leaving and not seat.jobs]
        for worker_id in empty:
            del self._seats[worker_id]
        return [Released(worker_id) for worker_id in empty]

    def _dispatch(self, now_s: float) -> list[Command]:
        commands: list[Command] = []
        while self._queue:  # each pass takes a job out of the queue, or ends
            job = self._queue[0]
            if not job.route.same_interface(self.route) and self.route.digest is not None:
                self._queue.popleft()
                commands.append(_fail(job, NotServing("the model's interface has changed meanwhile")))
                continue
            seat = self._seat_for(job)
            if seat is None:
                break
            self._queue.popleft()
            if not seat.jobs:
                seat.busy_since_s = now_s
            seat.jobs.append(job)
            commands.append(Send(seat.worker_id, job))
        return commands

    def _seat_for(self, job: Job) -> Seat | None:
        """A worker for this job: alone if it is replayed; else the first of the route, with one more waiting at it."""
        seats = self._open_seats()
        if job.alone:
            return next((seat for seat in seats if not seat.jobs), None)
        free = [seat for seat in seats if not seat.reserved()]
        return free[0] if free and len(free[0].jobs) < IN_FLIGHT_MAX else None

    def _open_seats(self) -> list[Seat]:
        """Workers that may be given a job of the present route, in its order."""
        return [s for s in self._seats.values() if s.digest == self.route.digest and not s.leaving and not s.hung]


def _fail(job: Job, error: RequestError) -> Fail:
    job.over = True
    return Fail(job, error)
