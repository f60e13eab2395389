"""Random walks through the lifecycle: whatever comes, every promise is kept. Chosen paths are elsewhere."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from edge_agent.contract import limits
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import Tally, counted
from edge_agent.core import events as ev
from edge_agent.core.lifecycle import decide
from edge_agent.core.state import LiveWorker, ModelState, Moment, Settings, Status
from tests.core.device import FACTORY, NO_TRIAL, ONE, OTHER_INTERFACE, TWO

POLICIES = (
    NO_TRIAL,
    replace(NO_TRIAL, probation_s=0.0),
    Policy(shadow_s=5.0, shadow_requests_min=5, share_percents=(10, 50), share_step_s=1.0, share_requests_min=3),
    Policy(shadow_s=0.0, share_percents=(50,), share_step_s=0.0, share_requests_min=0, unclean_starts_max=0),
)


def random_tally(chance: random.Random) -> Tally:
    answers = chance.randrange(30)
    return Tally(
        answers=answers,
        errors=chance.choice([0, 0, 0, answers]),
        non_finite=chance.choice([0, 0, 0, 0, 1]),
        compared=10,
        agreed=chance.choice([10, 10, 0]),
        latencies=counted(chance.randrange(60), answers),
    )


def random_event(chance: random.Random, state: ModelState, number: int) -> ev.Event:
    snapshots = (FACTORY, ONE, TWO, OTHER_INTERFACE)
    digest = chance.choice(snapshots).digest
    reason = chance.choice([Reason.DAMAGE, Reason.PROOF, Reason.ENGINE_MISSING, Reason.LOAD_CRASH])
    worker = chance.choice(state.live) if state.live else LiveWorker("none", digest)
    found = tuple(s for s in snapshots if s.factory or chance.random() < 0.7)
    return chance.choice(
        [
            ev.Booted("m", Settings(chance.choice(POLICIES)), found, tuple(state.live[:1])),
            ev.OfferBegun("m", chance.choice(snapshots), chance.random() < 0.5, chance.random() < 0.2),
            ev.OfferCompleted("m", digest),
            ev.OfferAbandoned("m", digest, Reason.OFFER_ABANDONED),
            ev.VerifyPassed("m", digest),
            ev.VerifyFailed("m", digest, reason, ""),
            ev.WorkerUp("m", f"w{number}", digest),
            ev.BringUpFailed("m", digest, reason, ""),
            ev.WorkerDied("m", worker.worker_id, worker.digest),
            ev.WorkerCrashed("m", digest, chance.choice("abc")),
            ev.Routed("m", digest),
            ev.DamageFound("m", digest, 1),
            ev.Repaired("m", digest),
            ev.RollbackAsked("m", chance.choice([None, "1.0", "9.9"])),
            ev.Forgotten("m", digest),
            ev.Woke("m"),
            ev.AssignmentTaken(
                "m",
                digest,
                "x",
                1,
                chance.choice([1, 1, 2, 3]),
                Policy(probation_s=chance.choice([None, 5.0]), allow_interface_change=chance.choice([None, True])),
            ),
            ev.TrialRouted("m", digest, chance.choice([0, 10, 50])),
            ev.Observed("m", digest, random_tally(chance)),
            ev.PinAsked("m", chance.choice([None, "1.0"])),
            ev.UnpinAsked("m"),
            ev.MinimumStated("m", Policy(probation_s=chance.choice([None, 30.0]))),
            ev.ConditionsSeen("m", chance.choice([None, None, Reason.LOW_BATTERY])),
            ev.Stopping("m"),
        ]
    )


@pytest.mark.parametrize("block", range(20))
def test_random_walks_keep_every_promise(block: int) -> None:
    """After every step: consistent, bounded, nothing quarantined serves, what serves was loaded and proven."""
    for seed in range(block * 100, block * 100 + 100):
        chance, state, now_s = random.Random(seed), ModelState("m"), 0.0
        for number in range(60):
            now_s += chance.random() * 30
            event = random_event(chance, state, number)
            step = decide(state, event, Moment(now_s, int(now_s * 1000) + 1))
            new = step.state
            story = (seed, number, event)
            assert new.fault() is None, (story, new.fault())
            assert new.active is None or new.is_quarantined(new.active) is None, story
            if new.active not in (None, state.active):
                assert new.live_count(new.active), (story, "what begins to serve has a proven worker")
            assert_going_back_has_a_reason(new, story)
            assert len(new.quarantine) <= limits.QUARANTINE_RECORDS_MAX
            assert len(new.crashes) <= limits.CRASHES_REMEMBERED_MAX
            state = new


def assert_going_back_has_a_reason(state: ModelState, story: object) -> None:
    """What serves is what is wanted and is confirmed or watched; anything else is on its way, or has a reason."""
    assert state.wanted is None or state.is_quarantined(state.wanted) is None, story
    if state.status is not Status.UP or state.candidate_is_active:
        return
    if state.active != state.wanted:
        assert state.fallback_reason is not None or state.retry_at_s is not None, story
    elif state.candidate is None:
        serving = state.find(state.active)
        assert serving is not None, story
        assert serving.is_settled, (story, "serves for good without ever having been confirmed")
