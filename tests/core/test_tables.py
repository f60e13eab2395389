"""The lifecycle's tables are total: every (state, event) is a transition or a named refusal.

Paths through them: test_lifecycle.
"""

from __future__ import annotations

import itertools

import pytest

from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.lifecycle import cell_for, decide
from edge_agent.core.recovery import RESUME_PHASE
from edge_agent.core.state import Phase, Status
from tests.core.table_samples import NOW, A, C, F, events_about, state_in


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
