"""A device that loses its runtime after any step of an import, with any of its workers alive, ends where it should.

The kills are generated from the steps themselves: a new step adds its own. Processes that really die: tests/faults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import pytest

from edge_agent.core import events as ev
from edge_agent.core.actions import KeepWorkers, Route, Verify
from edge_agent.core.lifecycle import decide
from edge_agent.core.state import Known, LiveWorker, ModelState, Moment, Settings, persistent_part
from tests.core.device import FACTORY, NO_TRIAL, ONE, TWO

SETTINGS = Settings(NO_TRIAL)
EVENTS_MAX = 200  # far more than any story here needs; reaching it means that the device never comes to rest


@dataclass(frozen=True)
class Saved:
    """What a kill leaves behind: the persisted state, the living workers, what the store holds."""

    step: str
    state: ModelState
    live: tuple[LiveWorker, ...]
    known: tuple[Known, ...]


class World:
    """Carries actions out at once and truthfully: loads work, bytes verify, the front switches to living workers."""

    def __init__(self, saved: Saved, prefix: str = "new") -> None:
        self.state = saved.state
        self.workers = {worker.worker_id: worker.digest for worker in saved.live}
        self.known = saved.known
        self.route: str | None = None
        self.now_s = 0.0
        self.history: list[Saved] = []
        self._prefix, self._made = prefix, 0
        self._events: deque[ev.Event] = deque()

    def run(self, *events: ev.Event) -> None:
        """Feed events and everything that follows from them, until nothing more happens."""
        self._events.extend(events)
        for _ in range(EVENTS_MAX):
            if not self._events:
                return
            self._step(self._events.popleft())
        raise AssertionError(f"never at rest: {self.state}")

    def pass_probation(self) -> None:
        self.now_s += self.state.rules.probation_s + 1
        self.run(ev.Woke("m"))

    def _step(self, event: ev.Event) -> None:
        step = decide(self.state, event, Moment(self.now_s, int(self.now_s * 1000) + 1))
        assert step.state.fault() is None
        self.state = step.state
        if isinstance(event, ev.OfferCompleted):
            self.known = (*self.known, TWO)
        live = tuple(LiveWorker(worker_id, digest) for worker_id, digest in self.workers.items())
        self.history.append(Saved(type(event).__name__, persistent_part(self.state), live, self.known))
        for action in step.actions:
            self._act(action)

    def _act(self, action: object) -> None:
        match action:
            case Verify(digest=digest):
                self._events.append(ev.VerifyPassed("m", digest))
            case KeepWorkers(digests=digests):
                self._keep(list(digests))
            case Route(digest=digest):
                self.route = digest
        if self.route is not None and isinstance(action, Route | KeepWorkers) and self.route in self.workers.values():
            self._events.append(ev.Routed("m", self.route))

    def _keep(self, wanted: list[str]) -> None:
        for worker_id, digest in list(self.workers.items()):
            if digest in wanted:
                wanted.remove(digest)
            else:
                del self.workers[worker_id]
                self._events.append(ev.WorkerDied("m", worker_id, digest))
        for digest in wanted:
            self._made += 1
            worker_id = f"{self._prefix}{self._made}"
            self.workers[worker_id] = digest
            self._events.append(ev.WorkerUp("m", worker_id, digest))


def story_of_an_import(*, confirmed: bool) -> list[Saved]:
    """Every state that is persisted while ONE serves, confirmed or still watched, and TWO is brought in."""
    world = World(Saved("", ModelState("m"), (), (FACTORY, ONE)), prefix="old")
    world.run(ev.Booted("m", SETTINGS, world.known, ()))
    if confirmed:
        world.pass_probation()
    world.run(ev.OfferBegun("m", TWO, complete=False, retry=False), ev.OfferCompleted("m", TWO.digest))
    world.pass_probation()
    assert world.state.wanted == TWO.digest
    return world.history


def kills() -> Iterator[Saved]:
    """Each persisted state with each possible set of workers that outlived the runtime."""
    for saved in (*story_of_an_import(confirmed=True), *story_of_an_import(confirmed=False)):
        for count in range(len(saved.live) + 1):
            for live in combinations(saved.live, count):
                yield Saved(saved.step, saved.state, live, saved.known)


@pytest.mark.parametrize(
    "saved", tuple(dict.fromkeys(kills())), ids=lambda saved: f"{saved.step}-{saved.state.phase}-{len(saved.live)}"
)
def test_an_import_that_was_cut_off_ends_served_and_confirmed(saved: Saved) -> None:
    world = World(saved)
    world.run(ev.Booted("m", SETTINGS, saved.known, saved.live))
    assert world.state.active is not None, "something serves after the boot"
    assert world.state.live_count(world.state.active), "from a proven worker"
    if TWO not in saved.known:  # still being fetched: whoever offered it offers it again
        world.run(ev.OfferBegun("m", TWO, complete=False, retry=False), ev.OfferCompleted("m", TWO.digest))
    elif saved.state.candidate is None and saved.state.wanted != TWO.digest:
        world.run(ev.OfferBegun("m", TWO, complete=True, retry=False))
    world.pass_probation()
    assert world.state.candidate is None, "no candidate is left hanging"
    assert (world.state.active, world.state.wanted, world.route) == (TWO.digest,) * 3
    assert all(worker.digest == TWO.digest for worker in world.state.live), "workers of the old snapshot were let go"
