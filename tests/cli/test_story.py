"""The journal as a story: every fact that there can be has words."""

from __future__ import annotations

import pytest

from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind
from edge_agent.core.state import Phase, Status
from edge_agent.story import KINDS, PHASES, STATUSES, told

LINE = {"number": 1, "at_unix_ms": 1_700_000_000_000, "model": "digits", "version": "1.1.0", "phase": None,
        "reason": None, "detail": ""}  # fmt: skip


def test_every_kind_phase_and_status_has_words() -> None:
    assert set(KINDS) == {kind.value for kind in ReportKind}
    assert set(PHASES) == {phase.value for phase in Phase if phase is not Phase.NONE} | {"confirmed"}
    assert set(STATUSES) == {status.value for status in Status}


def test_a_step_of_a_trial_says_what_it_gets() -> None:
    trial = {**LINE, "kind": "phase", "phase": "trial"}
    assert told({**trial, "detail": "share 10 %"}).endswith("digits 1.1.0: trial, 10 % of requests")
    assert told({**trial, "detail": "shadow"}).endswith("digits 1.1.0: trial, copies of requests (shadow)")


@pytest.mark.parametrize("reason", list(Reason))
def test_what_was_quarantined_says_why_and_what_to_do(reason: Reason) -> None:
    text = told({**LINE, "kind": "quarantined", "reason": reason.value, "detail": "on 9 of 30 copies"})
    assert "digits 1.1.0: quarantined: " in text and f"({reason.value}): on 9 of 30 copies" in text
    assert text.endswith(f"Next: {reason.next_step}") and "\n" not in text


def test_words_of_a_later_agent_are_told_as_they_stand() -> None:
    text = told({**LINE, "kind": "te{le}ported", "phase": "orbit", "reason": "cosmic_rays"})
    assert "te(le)ported" in text and "cosmic_rays" in text
