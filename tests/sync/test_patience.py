"""How long is waited before the next try."""

from __future__ import annotations

import random

from edge_agent.sync.patience import KEYS_MAX, Troubles, full_jitter_s, pause_s


def test_a_fleet_that_was_cut_off_comes_back_spread_over_the_whole_time() -> None:
    chance = random.Random(1)
    pauses = [full_jitter_s(10, chance.random(), base_s=1.0, cap_s=60.0) for _ in range(6_000)]
    for second in range(60):
        assert 50 < sum(second <= pause < second + 1 for pause in pauses) < 150, "no wave"


def test_a_pause_grows_to_its_cap_and_never_beyond_also_after_a_week() -> None:
    assert [full_jitter_s(n, 1.0, base_s=1.0, cap_s=60.0) for n in (0, 1, 5, 6, 10**6)] == [1.0, 2.0, 32.0, 60.0, 60.0]
    assert [pause_s(n, 0.0, base_s=5.0, cap_s=600.0) for n in (0, 1, 10**6)] == [2.5, 5.0, 300.0]


def test_troubles_grow_one_by_one_and_end_with_success() -> None:
    troubles = Troubles()
    for expected in (5.0, 10.0, 20.0):
        troubles = troubles.noted("a", 100.0, 1.0, base_s=5.0, cap_s=600.0)
        assert troubles.wait_s("a", 100.0) == expected
    assert troubles.wait_s("b", 100.0) == 0.0
    assert troubles.wait_s("a", 119.0) == 1.0
    assert troubles.wait_s("a", 121.0) == 0.0
    assert troubles.cleared("a").wait_s("a", 100.0) == 0.0


def test_of_too_many_troubles_the_oldest_is_forgotten() -> None:
    troubles = Troubles()
    for number in range(KEYS_MAX + 1):
        troubles = troubles.noted(str(number), 0.0, 0.0, base_s=5.0, cap_s=600.0)
    assert len(troubles.by_key) == KEYS_MAX
    assert "0" not in troubles.by_key
