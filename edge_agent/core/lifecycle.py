"""The lifecycle of one model slot: two total tables and `decide`, the one function that the runtime asks.

The tables say which handler answers an event in which phase; handlers live in `candidate`, `trial`, `assignment`,
`choices`, `serving` and `recovery`; what holds after each of them is `upkeep`'s;
what has to be done about a change is derived from (old, new) in `effects`, so that no handler can forget it.

Events about the candidate's digest, and all offer events, go by the candidate table (phase x event); all others go
by the serving table (status x event). Every cell is a handler or a named refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_agent.contract.reasons import Reason
from edge_agent.core import assignment, choices, recovery, serving, trial
from edge_agent.core import candidate as cand
from edge_agent.core import events as ev
from edge_agent.core.actions import Action
from edge_agent.core.effects import effects
from edge_agent.core.serving import Refusal
from edge_agent.core.state import ModelState, Moment, Phase, Status
from edge_agent.core.upkeep import kept_up

Handler = Callable[[ModelState, Any, Moment], ModelState | Refusal]
Cell = Handler | Reason


@dataclass(frozen=True, slots=True)
class Step:
    """What an event leads to. With a refusal the state is the old one and there are no actions."""

    state: ModelState
    actions: tuple[Action, ...]
    refusal: Refusal | None = None


_EARLY = (Phase.NONE, Phase.ASSIGNED, Phase.FETCHING)
_LATE = Reason.OUT_OF_ORDER


def _candidate_row(phase: Phase) -> dict[type[ev.Event], Cell]:
    """The cells of one phase; read a column across phases to see how one event is answered."""
    N, A, F, R, V, P, T, B = Phase  # noqa: N806 - columns of a table, as narrow as they can be
    columns: dict[type[ev.Event], dict[Phase, Cell]] = {
        ev.OfferBegun: {N: cand.offer_begun, F: cand.offer_resumed, R: cand.offer_while_busy, V: cand.offer_while_busy,
                        P: cand.offer_while_busy, T: cand.offer_in_trial, B: cand.offer_begun, A: cand.offer_begun},
        ev.OfferCompleted: {F: cand.offer_completed},
        ev.OfferAbandoned: {F: cand.offer_abandoned},
        ev.VerifyPassed: {R: cand.verify_passed},
        ev.VerifyFailed: {R: cand.verify_failed},
        ev.WorkerUp: {R: serving.remember_worker, V: cand.worker_up_proves, P: serving.remember_worker,
                      T: serving.remember_worker, B: cand.worker_up_again},
        ev.BringUpFailed: dict.fromkeys((R, V, P, T, B), cand.bring_up_failed),
        ev.WorkerDied: dict.fromkeys((A, F, R, V, P, T, B), serving.worker_died),
        ev.WorkerCrashed: {R: serving.note_crash, V: serving.note_crash, P: cand.worker_crashed,
                           T: cand.worker_crashed, B: cand.worker_crashed},
        ev.Routed: {R: serving.routed, P: cand.routed, T: serving.routed, B: serving.routed},
        ev.TrialRouted: dict.fromkeys((P, T), trial.trial_routed),
        ev.Observed: dict.fromkeys(Phase, cand.observed),
        ev.AssignmentTaken: dict.fromkeys(Phase, assignment.assignment_taken),
        ev.Woke: dict.fromkeys(Phase, cand.woke),
    }  # fmt: skip
    return {event_type: cells.get(phase, _LATE) for event_type, cells in columns.items()}


CANDIDATE_TABLE: dict[Phase, dict[type[ev.Event], Cell]] = {phase: _candidate_row(phase) for phase in Phase}


def _serving_row(status: Status) -> dict[type[ev.Event], Cell]:
    raising = status in (Status.RAISING, Status.CHANGING)
    return {
        ev.WorkerUp: serving.worker_up_raises if raising else serving.remember_worker,
        ev.BringUpFailed: _LATE if status in (Status.EMPTY, Status.DOWN) else serving.bring_up_failed,
        ev.WorkerDied: serving.worker_died,
        ev.WorkerCrashed: serving.worker_crashed if status in (Status.UP, Status.CHANGING) else serving.note_crash,
        ev.Routed: serving.routed if status in (Status.UP, Status.CHANGING) else _LATE,
        ev.DamageFound: serving.damage_found,
        ev.Repaired: serving.repaired,
        ev.RollbackAsked: choices.rollback_asked,
        ev.PinAsked: choices.pin_asked,
        ev.UnpinAsked: choices.unpin_asked,
        ev.MinimumStated: serving.minimum_stated,
        ev.ConditionsSeen: assignment.conditions_seen,
        ev.Stopping: recovery.stopping,
        ev.OfferRefused: serving.offer_refused,
        ev.Forgotten: serving.forgotten,
    }


SERVING_TABLE: dict[Status, dict[type[ev.Event], Cell]] = {status: _serving_row(status) for status in Status}

# Events that the candidate table answers when they are about the candidate's digest, else the serving table.
_BY_DIGEST = (ev.WorkerUp, ev.BringUpFailed, ev.WorkerDied, ev.WorkerCrashed, ev.Routed)


def cell_for(state: ModelState, event: ev.Event) -> Cell:
    """The cell that answers this event in this state. Raises KeyError for an event type that no table knows."""
    if isinstance(event, ev.Booted):
        return recovery.boot
    loaded = state.candidate is not None and state.phase not in _EARLY  # before, its workers are those of a rung
    about_candidate = isinstance(event, _BY_DIGEST) and loaded and _is_candidates(state, event.digest)
    if about_candidate or not isinstance(event, (*SERVING_TABLE[state.status],)):
        return CANDIDATE_TABLE[state.phase][type(event)]
    return SERVING_TABLE[state.status][type(event)]


def _is_candidates(state: ModelState, digest: str) -> bool:
    return state.candidate is not None and state.candidate.digest == digest


def decide(state: ModelState, event: ev.Event, now: Moment) -> Step:
    """One event in, the new state and what to do out. Pure and total: a refusal changes nothing and says why."""
    cell = cell_for(state, event)
    if isinstance(cell, Reason):
        where = f"phase {state.phase}, status {state.status}"
        return Step(state, (), Refusal(cell, f"{state.model}: {type(event).__name__} refused in {where}"))
    outcome = cell(state, event, now)
    if isinstance(outcome, Refusal):
        return Step(state, (), outcome)
    outcome = kept_up(outcome, now)
    return Step(outcome, effects(state, outcome, event))
