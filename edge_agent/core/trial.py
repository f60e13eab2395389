"""The trial: a proven candidate beside the active snapshot, first with copies of live requests (shadow), then with a
share of them that is widened step by step. Loading it is `candidate`'s, what answers say is `judgement`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.judgement import NOT_BEGUN, Fault, Watch, fault_at_once, fault_at_the_end, is_enough, stage_of
from edge_agent.core.state import Candidate, ModelState, Moment, Phase, Status

Judged = ModelState | Fault


def is_possible(state: ModelState) -> bool:
    """Whether there is something to compare with: a snapshot of the same interface that serves, or is being brought up
    after a boot or a fallback. Should it not come up, the candidate stands in (`candidate.stands_in`).
    """
    other, candidate = state.find(state.active or state.raising), state.candidate
    if other is None or candidate is None or other.digest == candidate.digest:
        return False
    return bool(state.rules.steps) and other.interface == candidate.snapshot.interface


def begin(state: ModelState, candidate: Candidate, now: Moment) -> ModelState:
    """The candidate is proven: the front is told of it, and what serves goes on serving."""
    first = state.rules.steps[0]
    proven = replace(
        candidate, phase=Phase.PROVEN, since_unix_ms=now.unix_ms, previous=state.active, share_percent=first
    )
    state = replace(state, candidate=proven)
    return state if state.active is None else replace(state, status=Status.UP, raising=None)


def trial_routed(state: ModelState, event: ev.TrialRouted, now: Moment) -> ModelState:
    """The front follows: the time of this step begins. Word of an earlier step comes too late."""
    candidate = state.candidate
    if candidate is None or (candidate.digest, candidate.share_percent) != (event.digest, event.percent):
        return state
    if state.phase is Phase.TRIAL and state.watch is not None and state.watch.has_begun:
        return state  # told again, after a front was replaced, say
    state = replace(state, candidate=replace(candidate, phase=Phase.TRIAL, since_unix_ms=now.unix_ms))
    return _watched(state, now)


def _watched(state: ModelState, now: Moment) -> ModelState:
    assert state.candidate is not None
    stage = stage_of(state.rules, state.candidate.share_percent)
    return replace(state, watch=Watch(now.monotonic_s), stage_ends_s=now.monotonic_s + stage.lasts_s)


def observe(state: ModelState, event: ev.Observed) -> ModelState:
    """The watch with these answers counted, on the side that they are of."""
    watch, candidate = state.watch, state.candidate
    if watch is None or candidate is None:
        return state
    if event.digest == candidate.digest:
        return replace(state, watch=replace(watch, candidate=watch.candidate.plus(event.tally)))
    if event.digest == candidate.previous:
        return replace(state, watch=replace(watch, baseline=watch.baseline.plus(event.tally)))
    return state


def judged(state: ModelState, now: Moment, promote: Callable[[ModelState, Moment], ModelState]) -> Judged:
    """On to the next step, or to all requests (`promote`), once enough was seen; a fault if it has to go back."""
    candidate, watch, rules = state.candidate, state.watch, state.rules
    if candidate is None or watch is None:
        return state
    stage = stage_of(rules, candidate.share_percent)
    fault = fault_at_once(rules, stage, watch)
    if fault is not None:
        return fault
    if not is_enough(stage, watch, now.monotonic_s):
        return _in_overtime(state, watch, stage.lasts_s, now)
    fault = fault_at_the_end(rules, watch)
    if fault is not None:
        return fault
    later = [percent for percent in rules.steps if percent > (candidate.share_percent or 0)]
    if not later:
        return promote(state, now)
    step = replace(candidate, share_percent=later[0], since_unix_ms=now.unix_ms)
    return replace(state, candidate=step, watch=Watch(NOT_BEGUN), stage_ends_s=None)


def _in_overtime(state: ModelState, watch: Watch, lasts_s: float, now: Moment) -> Judged:
    """Time is over and answers are missing: they are waited for, but not for ever."""
    over_s = now.monotonic_s - watch.since_s - lasts_s
    if over_s < 0:
        return state
    if over_s >= limits.STAGE_OVERTIME_S:
        return Fault(Reason.NO_EVIDENCE, f"{watch.answers} answers were seen")
    return replace(state, stage_ends_s=watch.since_s + lasts_s + limits.STAGE_OVERTIME_S)


def restarted(state: ModelState) -> ModelState:
    """What the candidate is compared with is another snapshot now: the step begins anew, once the front says so."""
    candidate = state.candidate
    if candidate is None or not state.in_trial or state.active in (None, candidate.previous):
        return state
    return replace(
        state,
        candidate=replace(candidate, phase=Phase.PROVEN, previous=state.active),
        watch=None,
        stage_ends_s=None,
    )
