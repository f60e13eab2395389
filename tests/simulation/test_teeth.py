"""The simulation has teeth: each bug of `planted` is caught by the invariant that is about it, and the same seed passes
without the bug.
"""

from __future__ import annotations

import pytest

from tests.simulation.planted import BUGS, Bug
from tests.simulation.seeds import in_words
from tests.simulation.world import simulate


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_by_name(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        bug.plant(patch)
        caught = next((verdict for seed in bug.seeds if (verdict := simulate(seed)).broken), None)
    assert caught is not None, f"none of {bug.seeds} saw it"
    assert caught.broken in bug.caught_by, in_words(caught)
    assert "BROKEN" in "".join(caught.lines)
    sound = simulate(caught.seed)
    assert sound.broken is None, in_words(sound)
    assert sound.digest != caught.digest


def test_at_least_twenty_bugs_are_planted() -> None:
    assert len({bug.name for bug in BUGS}) >= 20
