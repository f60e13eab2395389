"""Random walks through the lifecycle: whatever comes, every promise is kept. Chosen paths are elsewhere."""

from __future__ import annotations

import random

import pytest

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.lifecycle import decide
from edge_agent.core.state import LiveWorker, ModelState, Moment, Settings, Status
from tests.core.device import FACTORY, ONE, OTHER_INTERFACE, TWO


def random_event(chance: random.Random, state: ModelState, number: int) -> ev.Event:
    snapshots = (FACTORY, ONE, TWO, OTHER_INTERFACE)
    digest = chance.choice(snapshots).digest
    reason = chance.choice([Reason.DAMAGE, Reason.PROOF, Reason.ENGINE_MISSING, Reason.LOAD_CRASH])
    worker = chance.choice(state.live) if state.live else LiveWorker("none", digest)
    found = tuple(s for s in snapshots if s.factory or chance.random() < 0.7)
    return chance.choice(
        [
            ev.Booted("m", Settings(probation_s=chance.choice([0.0, 20.0])), found, tuple(state.live[:1])),
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
                chance.choice([None, 5.0]),
                chance.choice([None, True]),
            ),
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
