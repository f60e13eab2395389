"""Known bugs to plant, one at a time, and the invariants that catch each. That they are caught is test_teeth's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cloud_sync.core import plan as planning
from cloud_sync.core.fleet import Fleet, Rollout, Strategy
from edge_agent.core import assignment, candidate, effects, ladder, recovery, serving, trial
from edge_agent.core import events as ev
from edge_agent.core import state as states
from edge_agent.core.ladder import last_good
from edge_agent.core.lifecycle import CANDIDATE_TABLE
from edge_agent.core.state import Phase
from edge_agent.runtime import retention
from edge_agent.runtime.executor import Executor

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Bug:
    """caught_by: names of invariants; any other one is no proof that the right thing was seen. seeds: where to look."""

    name: str
    plant: Plant
    caught_by: frozenset[str]
    seeds: range


BUGS: list[Bug] = []
SEEDS = range(300)  # most are caught by the first ten; rare ones need a coincidence of faults


def bug(*caught_by: str, seeds: range = SEEDS) -> Callable[[Plant], Plant]:
    """Name what catches it."""

    def listed(plant: Plant) -> Plant:
        BUGS.append(Bug(plant.__name__, plant, frozenset(caught_by), seeds))
        return plant

    return listed


# ---- in the executor


@bug("persisted_before_acted")
def the_disk_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    async def wrong(self: Any, old: Any, step: Any, event: Any, now: Any) -> None:
        return None

    patch.setattr(Executor, "_persist", wrong)


@bug("persisted_before_acted")
def acted_before_it_is_saved(patch: pytest.MonkeyPatch) -> None:
    right = Executor._persist

    async def wrong(self: Any, old: Any, step: Any, event: Any, now: Any) -> Any:
        for action in step.actions:
            self._actor.act(action)
        return await right(self, old, step, event, now)

    patch.setattr(Executor, "_persist", wrong)


@bug("persisted_before_acted")
def an_offer_goes_on_without_the_disk(patch: pytest.MonkeyPatch) -> None:
    right = Executor._persist

    async def wrong(self: Any, old: Any, step: Any, event: Any, now: Any) -> None:
        await right(self, old, step, event, now)

    patch.setattr(Executor, "_persist", wrong)


@bug("reports_are_whole")
def facts_that_wait_for_the_disk_are_dropped(patch: pytest.MonkeyPatch) -> None:
    right = Executor._persist

    async def wrong(self: Any, old: Any, step: Any, event: Any, now: Any) -> Any:
        refused = await right(self, old, step, event, now)
        self._unsaved = dict.fromkeys(self._unsaved, ())
        return refused

    patch.setattr(Executor, "_persist", wrong)


@bug("reports_are_whole")
def what_was_written_late_is_told_again(patch: pytest.MonkeyPatch) -> None:
    right = Executor._settle_late

    def wrong(self: Any) -> None:
        if self._late is not None:
            self._late = replace(self._late, told=())
        right(self)

    patch.setattr(Executor, "_settle_late", wrong)


@bug("persisted_before_acted")
def a_late_write_of_what_was_refused_stays(patch: pytest.MonkeyPatch) -> None:
    right = Executor._persist

    async def wrong(self: Any, old: Any, step: Any, event: Any, now: Any) -> Any:
        refused = await right(self, old, step, event, now)
        if refused is not None and self._unsaved.get(event.model) == ():
            del self._unsaved[event.model]
        return refused

    patch.setattr(Executor, "_persist", wrong)


@bug("liveness")
def the_core_is_never_woken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Executor, "_due", lambda self, now_s: [])


# ---- in the core: boots


def _boot(patch: pytest.MonkeyPatch, wrong: Callable[[Any], Any]) -> None:
    right = recovery.boot
    patch.setattr(recovery, "boot", lambda state, event, now: wrong(right(state, event, now)))


@bug("quarantined_is_left_alone", "strikes_before_loading")
def a_boot_forgets_the_quarantine(patch: pytest.MonkeyPatch) -> None:
    _boot(patch, lambda booted: replace(booted, quarantine=()))


@bug("local_choice_holds")
def a_boot_forgets_what_was_chosen_here(patch: pytest.MonkeyPatch) -> None:
    _boot(patch, lambda booted: replace(booted, held=False, pinned=False))


@bug("order_never_goes_back")
def a_boot_forgets_the_assignment(patch: pytest.MonkeyPatch) -> None:
    _boot(patch, lambda booted: replace(booted, assigned=None))


@bug("strikes_before_loading")
def a_strike_is_lost(patch: pytest.MonkeyPatch) -> None:
    right = recovery.boot
    patch.setattr(recovery, "boot", lambda state, event, now: right(replace(state, clean_stop=True), event, now))


# ---- in the core: a candidate's steps


@bug("confirmed_in_time")
def confirmed_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(candidate, "is_enough", lambda stage, watch, now_s: True)


@bug("confirmed_in_time", "trial_is_not_skipped")
def the_publishers_minimum_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(states, "at_least", lambda rules, minimum: rules)


@bug("trial_is_not_skipped")
def promoted_without_a_trial(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trial, "is_possible", lambda state: False)


@bug("trial_is_not_skipped")
def each_step_of_a_trial_is_over_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trial, "is_enough", lambda stage, watch, now_s: True)


@bug("serves_what_was_proven")
def verified_is_taken_for_proven(patch: pytest.MonkeyPatch) -> None:
    def wrong(state: Any, event: Any, now: Any) -> Any:
        return candidate.proven(state, state.candidate, now)

    patch.setitem(CANDIDATE_TABLE[Phase.RECEIVED], ev.VerifyPassed, wrong)


@bug("liveness")
def probation_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(candidate, "_confirmed", lambda state, one, now: state)


@bug("keeps_a_last_good", "retention_keeps_what_is_needed")
def confirmations_are_ordered_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """It was in the core once."""
    right = candidate._confirmed

    def wrong(state: Any, one: Any, now: Any) -> Any:
        confirmed = right(state, one, now)
        known = confirmed.find(one.digest)
        assert known is not None
        return states.with_known(confirmed, replace(known, confirmed_unix_ms=max(now.unix_ms, 1)))

    patch.setattr(candidate, "_confirmed", wrong)


@bug("keeps_a_last_good", seeds=range(600, 900))  # one seed in a thousand sees it
def what_is_brought_again_is_not_confirmed_any_more(patch: pytest.MonkeyPatch) -> None:
    """It was in the core once."""
    patch.setattr(candidate, "_taken", states.with_known)


# ---- in the core: what serves, and what comes after it


@bug("climbs_are_bounded")
def ways_back_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    right = serving._climb_back
    patch.setattr(serving, "_climb_back", lambda state, now: replace(right(state, now), climbs=state.climbs))


@bug("damaged_is_not_raised")
def a_damaged_rung_is_brought_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ladder, "_is_usable", lambda state, known: state.is_quarantined(known.digest) is None)


@bug("quarantined_is_left_alone")
def what_failed_is_assigned_again(patch: pytest.MonkeyPatch) -> None:
    right = assignment.pursue

    def wrong(state: Any, wish: Any, now: Any) -> Any:
        return replace(right(replace(state, quarantine=()), wish, now), quarantine=state.quarantine)

    patch.setattr(assignment, "pursue", wrong)


@bug("keeps_the_way_back")
def the_spare_is_ended_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(effects, "_spare", lambda state: state.active if state.settings.spare else None)


@bug("keeps_a_last_good", "retention_keeps_what_is_needed")
def retention_removes_the_last_good(patch: pytest.MonkeyPatch) -> None:
    right = serving.needed_digests

    def wrong(state: Any) -> frozenset[str]:
        good = last_good(state)
        kept = {state.active, state.wanted} | ({state.candidate.previous} if state.candidate else set())
        return right(state) - ({good.digest} if good and not good.factory and good.digest not in kept else set())

    patch.setattr(serving, "needed_digests", wrong)
    patch.setattr(retention, "needed_digests", wrong)


# ---- in the plan


@bug("halted_reaches_nobody")
def a_halted_rollout_goes_on(patch: pytest.MonkeyPatch) -> None:
    right = planning.plan

    def wrong(fleet: Fleet, rollouts: list[Rollout], now_s: float) -> Any:
        return right(fleet, [replace(one, strategy=Strategy.ALL) if one.halted else one for one in rollouts], now_s)

    patch.setattr(planning, "plan", wrong)


@bug("one_by_one")
def whoever_comes_back_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    """It was in the plan once."""

    def wrong(rollout: Any, members: Any, now_s: float) -> Any:
        turns: set[str] = set()
        for device in (one for one in members if one.online(now_s)):
            halt = planning.failure(rollout, device)
            if halt is not None and planning.reached(rollout, device):
                return frozenset(), halt
            if not planning.reached(rollout, device):
                turns.add(device.device_id)
            if not planning.confirmed(rollout, device):
                break
        return frozenset(turns), None

    patch.setattr(planning, "_step", wrong)


@bug("assigns_nothing_older")
def the_oldest_wish_counts(patch: pytest.MonkeyPatch) -> None:
    right = planning.counting

    def wrong(rollouts: Any) -> Any:
        return tuple(replace(one, number=-one.number) for one in right(rollouts))

    patch.setattr(planning, "counting", wrong)
