"""What an operator on the device chooses: to go back, to pin, to take that back. It holds until the coordinator states
a higher generation of the model; what serves meanwhile is `serving`'s.
"""

from __future__ import annotations

from dataclasses import replace

from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.assignment import pursue
from edge_agent.core.ladder import last_good
from edge_agent.core.serving import Refusal, make_wanted
from edge_agent.core.state import Known, ModelState, Moment


def rollback_asked(state: ModelState, event: ev.RollbackAsked, now: Moment) -> ModelState | Refusal:
    """An older snapshot becomes the wanted one, and any candidate gives way. In a trial the way back is to what serves
    most of the requests.
    """
    if event.version is None and state.in_trial and state.active is not None:
        target: Known | None = state.find(state.active)
    else:
        target = last_good(state) if event.version is None else state.find_version(event.version)
    if target is None:
        what = "no other confirmed snapshot" if event.version is None else f"no version {event.version}"
        return _unknown(state, what)
    return _choose(state, target, now)


def pin_asked(state: ModelState, event: ev.PinAsked, now: Moment) -> ModelState | Refusal:
    """This snapshot and no other: nothing new is taken, repairs are."""
    target = state.find(state.active) if event.version is None else state.find_version(event.version)
    if target is None:
        return _unknown(state, "nothing that serves" if event.version is None else f"no version {event.version}")
    if state.pinned and target.digest == state.wanted:
        return state
    chosen = _choose(state, target, now)
    if isinstance(chosen, Refusal):
        return chosen
    return replace(chosen, pinned=True, held=state.assigned is not None)


def unpin_asked(state: ModelState, event: ev.UnpinAsked, now: Moment) -> ModelState:
    """What the coordinator wants counts again."""
    if not (state.pinned or state.held):
        return state
    state = replace(state, pinned=False, held=False)
    return state if state.assigned is None else pursue(state, state.assigned, now)


def _choose(state: ModelState, target: Known, now: Moment) -> ModelState | Refusal:
    if target.damaged and not (target.digest == state.active and state.live_count(target.digest)):
        return Refusal(Reason.DAMAGE, f"{state.model}@{target.version} is damaged on this device")
    held = state.assigned is not None and state.assigned.digest != target.digest
    state = replace(state, generation=state.generation + 1, climbs=0, held=held, pinned=False)
    return make_wanted(state, target, Reason.OPERATOR, now)


def _unknown(state: ModelState, what: str) -> Refusal:
    here = ", ".join(sorted({known.version for known in state.known})) or "none"
    return Refusal(Reason.UNKNOWN_VERSION, f"{state.model}: {what} is on this device (here: {here})")
