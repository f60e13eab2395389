"""The lifecycle's tables are total: every (state, event) is a transition or a named refusal.

Paths through them: test_lifecycle.
"""

from __future__ import annotations

import itertools

import pytest

from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import Tally
from edge_agent.core import events as ev
from edge_agent.core.lifecycle import cell_for, decide
from edge_agent.core.recovery import RESUME_PHASE
from edge_agent.core.state import Candidate, Known, LiveWorker, ModelState, Moment, Phase, Settings, Status

NOW = Moment(1000.0, 1_000_000)
A = Known("a" * 64, "1.0", 1, "i", confirmed_unix_ms=5)
C = Known("c" * 64, "2.0", 2, "i")
F = Known("f" * 64, "0.9", 1, "i", factory=True)


def state_in(status: Status, phase: Phase) -> ModelState:
    """A consistent state with this status and phase."""
    serving = status in (Status.UP, Status.CHANGING)
    raising = status in (Status.RAISING, Status.CHANGING)
    percent = 10 if phase is Phase.TRIAL else None
    candidate = None if phase is Phase.NONE else Candidate(C, phase, 1, previous=A.digest, share_percent=percent)
    return ModelState(
        "m",
        status=status,
        active=A.digest if serving else None,
        raising=F.digest if raising else None,
        wanted=A.digest,
        known=(A, F, C),
        candidate=candidate,
        live=(LiveWorker("w", A.digest),) if serving else (),
    )


def events_about(digest: str) -> list[ev.Event]:
    """One event of every type, about this digest where it has one."""
    known = {A.digest: A, C.digest: C, F.digest: F}[digest]
    return [
        ev.Booted("m", Settings(), (A, C, F), (LiveWorker("w", A.digest),)),
        ev.OfferBegun("m", known, complete=False, retry=False),
        ev.OfferCompleted("m", digest),
        ev.OfferAbandoned("m", digest, Reason.OFFER_ABANDONED),
        ev.OfferRefused("m", digest, "9", Reason.SIGNATURE, "x"),
        ev.VerifyPassed("m", digest),
        ev.VerifyFailed("m", digest, Reason.DAMAGE, "x"),
        ev.WorkerUp("m", "w2", digest),
        ev.BringUpFailed("m", digest, Reason.PROOF, "x"),
        ev.WorkerDied("m", "w", digest),
        ev.WorkerCrashed("m", digest, "r1"),
        ev.Routed("m", digest),
        ev.DamageFound("m", digest, 1),
        ev.Repaired("m", digest),
        ev.RollbackAsked("m", None),
        ev.Forgotten("m", digest),
        ev.Woke("m"),
        ev.AssignmentTaken("m", digest, "2.0", 1, 1),
        ev.TrialRouted("m", digest, 0),
        ev.Observed("m", digest, Tally(answers=5)),
        ev.PinAsked("m", None),
        ev.UnpinAsked("m"),
        ev.MinimumStated("m", Policy(probation_s=9.0)),
        ev.ConditionsSeen("m", Reason.LOW_BATTERY),
        ev.Stopping("m"),
    ]


def test_the_sample_has_every_event_type() -> None:
    assert {type(event) for event in events_about(A.digest)} == set(ev.EVENT_TYPES)


@pytest.mark.parametrize(("status", "phase"), list(itertools.product(Status, Phase)))
def test_every_event_in_every_state_is_a_transition_or_a_named_refusal(status: Status, phase: Phase) -> None:
    state = state_in(status, phase)
    assert state.fault() is None
    for event in [*events_about(A.digest), *events_about(C.digest), *events_about(F.digest)]:
        cell = cell_for(state, event)
        step = decide(state, event, NOW)
        if isinstance(cell, Reason):
            assert cell is Reason.OUT_OF_ORDER
        if step.refusal is not None:
            assert step.state is state, "a refusal changes nothing"
            assert step.actions == ()
            assert step.refusal.text
        else:
            assert step.state.fault() is None, (event, step.state.fault())


def test_recovery_is_total_over_saved_phases() -> None:
    assert set(RESUME_PHASE) == set(Phase)
