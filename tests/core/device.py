"""A device made of decisions alone: events in, workers as the pool would keep them. What has to hold is the tests'."""

from __future__ import annotations

from edge_agent.contract.policy import Policy
from edge_agent.core import events as ev
from edge_agent.core.actions import Action
from edge_agent.core.effects import wanted_workers
from edge_agent.core.lifecycle import Step, decide
from edge_agent.core.state import Known, ModelState, Moment, Settings

FACTORY = Known("f" * 64, "0.9", 1, "i", factory=True)
ONE = Known("1" * 64, "1.0", 2, "i")
TWO = Known("2" * 64, "2.0", 3, "i")
# Straight to probation, which time alone ends: for paths that are about something else than a trial.
NO_TRIAL = Policy(shadow_s=0.0, share_percents=(), probation_s=10.0, probation_requests_min=0)
OTHER_INTERFACE = Known("3" * 64, "3.0", 4, "other")


class Device:
    """Feeds events to the core, as the executor does, with a clock of the test's own."""

    def __init__(self, *known: Known, settings: Settings | None = None) -> None:
        self.state = ModelState("m")
        self.now_s = 100.0
        self.settings = settings or Settings(NO_TRIAL)
        self.workers = 0
        self.booted = self.feed(ev.Booted("m", self.settings, known, ()))

    def feed(self, event: ev.Event) -> Step:
        step = decide(self.state, event, self.now())
        assert step.state.fault() is None
        self.state = step.state
        self.retire_surplus()
        return step

    def retire_surplus(self) -> None:
        """As the pool does it: loaded workers that nobody wishes for are ended, and the core is told."""
        wished = list(wanted_workers(self.state))
        for worker in self.state.live:
            if worker.digest in wished:
                wished.remove(worker.digest)
            else:
                self.state = decide(self.state, ev.WorkerDied("m", worker.worker_id, worker.digest), self.now()).state

    @property
    def probation_s(self) -> float:
        return self.state.rules.probation_s

    def now(self) -> Moment:
        return Moment(self.now_s, int(self.now_s * 1000))

    def up(self, snapshot: Known) -> Step:
        self.workers += 1
        return self.feed(ev.WorkerUp("m", f"w{self.workers}", snapshot.digest))

    def die(self, snapshot: Known) -> Step:
        worker = next(w for w in self.state.live if w.digest == snapshot.digest)
        return self.feed(ev.WorkerDied("m", worker.worker_id, snapshot.digest))

    def bring_in(self, snapshot: Known, *, confirm: bool = True) -> None:
        """Offer, receive, verify, prove, route, and let probation pass."""
        self.feed(ev.OfferBegun("m", snapshot, complete=False, retry=False))
        self.feed(ev.OfferCompleted("m", snapshot.digest))
        self.feed(ev.VerifyPassed("m", snapshot.digest))
        self.up(snapshot)
        self.feed(ev.Routed("m", snapshot.digest))
        if confirm:
            self.now_s += self.probation_s
            self.feed(ev.Woke("m"))
            assert self.state.candidate is None


def actions_of(step: Step, kind: type[Action]) -> list[Action]:
    return [action for action in step.actions if isinstance(action, kind)]


def device_on_factory() -> Device:
    device = Device(FACTORY)
    device.up(FACTORY)
    device.up(FACTORY)
    return device
