"""What holds after every event, whatever its handler did; `lifecycle` asks once for each. Handlers are elsewhere."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.contract import limits
from edge_agent.core import candidate, trial
from edge_agent.core.state import ModelState, Moment, Status


def kept_up(state: ModelState, now: Moment) -> ModelState:
    """The state with its loose ends tied: watched, retried and forgotten at the right time."""
    state = trial.restarted(candidate.stands_in(candidate.left_behind(state), now))
    if state.candidate is None and (state.watch or state.stage_ends_s is not None):
        state = replace(state, watch=None, stage_ends_s=None)
    state = candidate.watch_unconfirmed(state, now)
    return _steadied(_climbing(state, now), now)


def _climbing(state: ModelState, now: Moment) -> ModelState:
    """What serves is not what is wanted: to be tried again, each time after a longer pause, and not for ever."""
    wanted = state.find(state.wanted)
    if state.status is not Status.UP or wanted is None or wanted.digest == state.active:
        return state
    if state.retry_at_s is not None or state.climbs >= limits.CLIMBS_MAX or wanted.damaged:
        return state
    if state.in_trial or state.candidate_is_active or state.is_quarantined(wanted.digest):
        return state
    pause_s = state.settings.retry_s * limits.CLIMB_PAUSE_FACTOR**state.climbs
    return replace(state, retry_at_s=now.monotonic_s + pause_s)


def _steadied(state: ModelState, now: Moment) -> ModelState:
    active = state.find(state.active)
    if active is None or not active.unclean_starts:
        return replace(state, steady_at_s=None) if state.steady_at_s is not None else state
    return state if state.steady_at_s is not None else replace(state, steady_at_s=now.monotonic_s + limits.STEADY_S)
