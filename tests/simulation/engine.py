"""Workers and front of one device, as `Pool`, `CrashReporter` and `FrontLink` behave, on engines that fail. What to
load and where requests go is the core's word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import Tally, counted
from edge_agent.core import events as ev
from edge_agent.core.actions import Route
from edge_agent.core.backoff import Deaths, respawn_delay_s, with_trouble
from edge_agent.core.blame import SIGKILL, is_loaded_again, reason_of_failed_load
from edge_agent.core.judgement import replay_interval_s, stage_of
from edge_agent.core.serving import GOLDEN_VECTOR
from edge_agent.core.state import LiveWorker
from tests.simulation.faults import MODEL, Nature

if TYPE_CHECKING:
    from tests.simulation.device import Device

TICK_S = 1.0
FAST_BUCKET, SLOW_BUCKET = 30, 50
ANSWERS_A_TICK = 12
WEARS_OUT_S = 40.0

_FAILS: dict[Nature, tuple[Reason, int | None]] = {
    Nature.LOAD_FAILED: (Reason.LOAD_FAILED, None),
    Nature.LOAD_CRASH: (Reason.LOAD_CRASH, 11),
    Nature.LOAD_TIMEOUT: (Reason.LOAD_TIMEOUT, None),
    Nature.LOAD_MEMORY: (Reason.LOAD_MEMORY, None),
    Nature.PROOF: (Reason.PROOF, None),
}


@dataclass(eq=False, slots=True)
class Worker:
    """A process. up: loaded and proven, at since_s."""

    worker_id: str
    digest: str
    attempt: int = 1
    up: bool = False
    since_s: float = 0.0
    ending: bool = False


class Engines:
    """All worker processes; they outlive the runtime, never the power. proven: digests of which a worker was loaded
    from whole bytes and proved itself since the power came. first_up_s: by the world's clock.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._chance = device.chance.of("engines")
        self._workers: dict[str, Worker] = {}
        self._wishes: tuple[str, ...] = ()
        self._troubles: dict[str, Deaths] = {}
        self._numbers = 0
        self.proven: set[str] = set()
        self.first_up_s: dict[str, float] = {}

    def up(self, digest: str | None = None) -> list[Worker]:
        """Loaded workers, of this snapshot or of all."""
        return [worker for worker in self._workers.values() if worker.up and digest in (None, worker.digest)]

    def live(self) -> tuple[LiveWorker, ...]:
        """What a new runtime adopts; loads under way end with the runtime that began them."""
        self._workers = {name: worker for name, worker in self._workers.items() if worker.up}
        return tuple(LiveWorker(worker.worker_id, worker.digest) for worker in self._workers.values())

    def end_all(self) -> None:
        """The power is gone, or the runtime ended them at its end."""
        for worker in self._workers.values():
            worker.ending = True
        self._workers, self._wishes, self._troubles, self.proven = {}, (), {}, set()

    def runtime_gone(self) -> None:
        """Nobody wishes anything; a new runtime begins to count deaths anew."""
        self._wishes, self._troubles = (), {}

    def keep(self, digests: tuple[str, ...]) -> None:
        """Have exactly these, one per entry."""
        self._wishes = digests
        self._reconcile()

    def _reconcile(self) -> None:
        missing = Counter(self._wishes)
        surplus = []
        for worker in self._workers.values():
            if missing[worker.digest] > 0:
                missing[worker.digest] -= 1
            else:
                surplus.append(worker)
        for digest in self._wishes:
            if missing[digest] > 0:
                missing[digest] -= 1
                self._start(digest)
        for worker in surplus:
            self._gone(worker)
            if worker.up:
                self._device.post(ev.WorkerDied(MODEL, worker.worker_id, worker.digest))

    def _start(self, digest: str) -> None:
        self._numbers += 1
        worker = Worker(f"w{self._numbers}", digest)
        self._workers[worker.worker_id] = worker
        now_s = self._device.now_s()
        self._later(respawn_delay_s(self._troubles.get(digest, ()), now_s), self._load, worker)

    def _load(self, worker: Worker) -> None:
        if not worker.ending:
            nature = self._device.nature(worker.digest)
            lasts_s = 30.0 if nature is Nature.LOAD_TIMEOUT else self._chance.between(50, 900)
            self._later(lasts_s, self._loaded, worker)

    def _loaded(self, worker: Worker) -> None:
        if worker.ending:
            return
        failed = self._why_not(worker.digest)
        if failed is None:
            worker.up, worker.since_s = True, self._device.now_s()
            self.proven.add(worker.digest)
            self.first_up_s.setdefault(worker.digest, self._device.world.now_s())
            self._device.post(ev.WorkerUp(MODEL, worker.worker_id, worker.digest))
            return
        reason, signal = failed
        if is_loaded_again(reason, signal, worker.attempt):
            worker.attempt += 1
            self._load(worker)
            return
        self._note_trouble(worker)
        self._gone(worker)
        self._device.post(ev.BringUpFailed(MODEL, worker.digest, reason_of_failed_load(reason, signal), "simulated"))
        self._later(limits.BRING_UP_PAUSE_S, lambda _: self._reconcile(), worker)

    def _why_not(self, digest: str) -> tuple[Reason, int | None] | None:
        stored = self._device.disk.snapshots.get(digest)
        if stored is None or not (stored.whole or stored.factory):
            return Reason.DAMAGE, None
        if self._device.world.faulty and self._chance.one_in(self._device.world.setting.lazy_load):
            return self._chance.choice(((Reason.NO_WORKER, None), (Reason.LOAD_CRASH, SIGKILL)))
        return _FAILS.get(self._device.nature(digest))

    def die(self, worker: Worker, fingerprint: str | None) -> None:
        """A loaded worker ends; fingerprint: of the request by which it was its own fault, None = it was not."""
        self._note_trouble(worker)
        self._gone(worker)
        self._device.post(ev.WorkerDied(MODEL, worker.worker_id, worker.digest))
        if fingerprint is not None:
            self._device.post(ev.WorkerCrashed(MODEL, worker.digest, fingerprint))

    def _gone(self, worker: Worker) -> None:
        worker.ending = True
        self._workers.pop(worker.worker_id, None)

    def _note_trouble(self, worker: Worker) -> None:
        self._troubles = with_trouble(self._troubles, worker.digest, self._device.now_s())

    def _later(self, pause_s: float, what: Callable[[Worker], None], worker: Worker) -> None:
        self._device.later(pause_s, what, worker)


class Front:
    """Follows a route after a moment, counts answers, finds out what a bad model does."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._chance = device.chance.of("front")
        self.wanted: Route | None = None
        self.routed: Route | None = None

    def begin(self) -> None:
        """A new runtime tells it everything again."""
        self.wanted = None

    def set_route(self, route: Route) -> None:
        """Newest wins."""
        self.wanted = route
        self._device.later(self._chance.between(1, 40), self._follow, route)

    def _follow(self, route: Route) -> None:
        if route is not self.wanted:
            return
        self.routed = route
        if route.digest is None:
            return
        self._device.on_routed(route)
        self._device.post(ev.Routed(MODEL, route.digest))
        if route.share is not None:
            self._device.post(ev.TrialRouted(MODEL, route.share.digest, route.share.percent))
        digests = (route.digest, route.share.digest) if route.share else (route.digest,)
        if route.watched or any(self._device.nature(digest) is not Nature.GOOD for digest in digests):
            self._device.later(TICK_S, self._tick, route, digests)

    def _tick(self, route: Route, digests: tuple[str, ...]) -> None:
        """A second of requests, and golden vectors where there are too few; of those where something may show."""
        if route is not self.routed:
            return
        self._device.later(TICK_S, self._tick, route, digests)
        if route is not self.wanted:
            return
        live = not self._device.is_quiet
        for digest in digests:
            workers = self._device.engines.up(digest)
            if not workers:
                continue
            shadowed = route.share is not None and digest == route.share.digest and route.share.percent == 0
            died = self._misbehaves(workers[0], live=live)
            if route.watched and not died:
                tally = self._tally(digest, shadowed=shadowed) if live else self._replayed(digest)
                if tally is not None:
                    self._device.post(ev.Observed(MODEL, digest, tally))

    def _misbehaves(self, worker: Worker, *, live: bool) -> bool:
        engines, nature = self._device.engines, self._device.nature(worker.digest)
        aged_s = self._device.now_s() - worker.since_s
        if nature is Nature.TAKES_DOWN and aged_s > 2 and self._chance.one_in(3):
            self._device.cut_soon()
            return True
        served_s = self._device.world.now_s() - engines.first_up_s[worker.digest]
        wrong = (nature is Nature.WRONG_LATER and aged_s > 3) or (nature is Nature.WEARS_OUT and served_s > WEARS_OUT_S)
        if wrong:
            engines.die(worker, GOLDEN_VECTOR)
            return True
        if nature in (Nature.CRASHES, Nature.HANGS) and live and self._chance.one_in(2):
            engines.die(worker, f"request {self._chance.randrange(100)}")
            return True
        return False

    def _tally(self, digest: str, *, shadowed: bool) -> Tally:
        nature, count = self._device.nature(digest), ANSWERS_A_TICK
        latencies = counted(SLOW_BUCKET if nature is Nature.SLOW else FAST_BUCKET, count)
        decided = counted(1 if nature is Nature.DRIFTS else 0, count)
        if shadowed:
            wrong = nature in (Nature.DISAGREES, Nature.DRIFTS, Nature.NON_FINITE, Nature.ERRORS)
            return Tally(compared=count, agreed=0 if wrong else count, latencies=latencies, decisions=decided)
        return Tally(
            answers=count,
            errors=count if nature is Nature.ERRORS else 0,
            non_finite=1 if nature is Nature.NON_FINITE else 0,
            latencies=latencies,
            decisions=decided,
        )

    def _replayed(self, digest: str) -> Tally | None:
        """Golden vectors, as often as the core's own rule says."""
        state = self._device.executor.state(MODEL)
        if state.watch is None or state.candidate is None:
            return None
        interval_s = replay_interval_s(stage_of(state.rules, state.candidate.share_percent), state.watch)
        if interval_s is None:
            return None
        count = max(1, min(20, int(TICK_S / interval_s)))
        bucket = SLOW_BUCKET if self._device.nature(digest) is Nature.SLOW else FAST_BUCKET
        return Tally(synthetic=count, latencies=counted(bucket, count))
