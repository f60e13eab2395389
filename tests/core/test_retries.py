"""When workers are started again, and whom their ends speak against: the pure policies of the pool."""

from __future__ import annotations

import signal

import pytest

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.core.backoff import RESPAWN_MAX_S, Deaths, respawn_delay_s, with_death, with_trouble
from edge_agent.core.blame import CRASH_SIGNALS, is_crash, is_loaded_again, reason_of_failed_load


def test_the_first_deaths_are_answered_at_once_and_a_storm_after_a_second_at_most() -> None:
    deaths: Deaths = ()
    delays = []
    for number in range(20):
        delays.append(respawn_delay_s(deaths, float(number)))
        deaths = with_death(deaths, float(number))
    assert delays[:3] == [0.0, 0.0, 0.0]
    assert delays == sorted(delays) and delays[-1] == RESPAWN_MAX_S


def test_deaths_outside_the_window_are_forgotten_and_their_number_is_bounded() -> None:
    deaths: Deaths = ()
    for number in range(1_000):
        deaths = with_death(deaths, number / 1_000)
    assert len(deaths) == limits.CRASHES_REMEMBERED_MAX
    assert respawn_delay_s(deaths, 2.0 + limits.CRASH_WINDOW_S) == 0.0
    assert with_death(deaths, 2.0 + limits.CRASH_WINDOW_S) == (2.0 + limits.CRASH_WINDOW_S,)


def test_of_too_many_snapshots_in_trouble_the_one_whose_trouble_is_oldest_is_forgotten() -> None:
    troubles: dict[str, Deaths] = {}
    for number in range(limits.TROUBLED_SNAPSHOTS_MAX):
        troubles = with_trouble(troubles, f"s{number}", 1.0)
    troubles = with_trouble(troubles, "s0", 2.0)
    troubles = with_trouble(troubles, "new", 3.0)
    assert len(troubles) == limits.TROUBLED_SNAPSHOTS_MAX
    assert "s1" not in troubles
    assert (troubles["s0"], troubles["new"]) == ((1.0, 2.0), (3.0,))


def test_signals_have_the_numbers_of_this_system() -> None:
    assert {signal.Signals(number).name: number for number in CRASH_SIGNALS} == {
        name: number for number, name in CRASH_SIGNALS.items()
    }


@pytest.mark.parametrize(
    ("exit_code", "signal_number", "own_fault"),
    [
        (None, signal.SIGSEGV, True),
        (None, signal.SIGABRT, True),
        (None, signal.SIGKILL, False),
        (None, signal.SIGTERM, False),
        (70, None, True),
        (0, None, False),
        (None, None, False),
    ],
)
def test_a_death_from_outside_speaks_against_nobody(
    exit_code: int | None, signal_number: int | None, own_fault: bool
) -> None:
    assert is_crash(exit_code, signal_number) is own_fault


def test_a_load_that_is_killed_from_outside_is_tried_again_and_then_memory_is_blamed() -> None:
    attempts = range(1, limits.LOAD_KILLED_MAX + 1)
    assert [is_loaded_again(Reason.LOAD_CRASH, signal.SIGKILL, n) for n in attempts] == [True] * (
        limits.LOAD_KILLED_MAX - 1
    ) + [False]
    assert is_loaded_again(Reason.NO_WORKER, None, 1)
    assert not is_loaded_again(Reason.LOAD_CRASH, signal.SIGSEGV, 1)
    assert not is_loaded_again(Reason.PROOF, signal.SIGKILL, 1)
    assert reason_of_failed_load(Reason.LOAD_CRASH, signal.SIGKILL) is Reason.LOAD_MEMORY
    assert reason_of_failed_load(Reason.LOAD_CRASH, signal.SIGSEGV) is Reason.LOAD_CRASH
    assert reason_of_failed_load(Reason.PROOF, signal.SIGKILL) is Reason.PROOF
