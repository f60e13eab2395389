"""The coordinator's wish for a slot: what taking it changes, and what has to be fetched for it. Who signed it is
`trust`'s matter; bringing a snapshot in is `candidate`'s, going back to one that is here is `serving`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.candidate import declined, give_way, interface_refusal, is_repair
from edge_agent.core.serving import Refusal, make_wanted, offer_refused
from edge_agent.core.state import Assigned, Candidate, Known, ModelState, Moment, Phase


@dataclass(frozen=True, slots=True)
class Want:
    """A snapshot whose bytes this slot needs. repair: it is here already, and damaged."""

    model: str
    digest: str
    version: str
    repair: bool


def assignment_taken(state: ModelState, event: ev.AssignmentTaken, now: Moment) -> ModelState | Refusal:
    """Level-triggered: the same wish again changes nothing that is under way.

    A later generation is an operator's new intent: what failed here may be tried again, and what somebody chose on the
    device no longer holds.
    """
    wish = Assigned(event.digest, event.version, event.epoch, event.generation, event.policy)
    before = state.assigned
    if before is not None and wish.order < before.order:
        return Refusal(
            Reason.STALE_ASSIGNMENT,
            f"{state.model}: epoch and generation {wish.order} are lower than {before.order}, which was taken",
        )
    if before is None or wish.order > before.order:
        state = replace(state, held=False, pinned=False, generation=state.generation + 1, climbs=0)
    state = replace(state, assigned=wish)
    return state if state.held else pursue(state, wish, now)


def conditions_seen(state: ModelState, event: ev.ConditionsSeen, now: Moment) -> ModelState:
    """The device can take updates again, or cannot now: what is under way goes on, what waits may begin."""
    if event.not_now == state.not_now:
        return state
    state = replace(state, not_now=event.not_now)
    return pursue(state, state.assigned, now) if state.assigned and not state.held else state


def pursue(state: ModelState, wish: Assigned, now: Moment) -> ModelState:
    """Go for the assigned snapshot by the shortest way that proves it here."""
    candidate = state.candidate
    waits = candidate is None or candidate.digest != wish.digest or candidate.phase is Phase.ASSIGNED
    if state.is_quarantined(wish.digest) or not waits:
        return state
    known = state.find(wish.digest)
    if known is None:
        awaited = Known(wish.digest, wish.version, release=0, interface="")
        return _told_if_not_now(_as_candidate(state, awaited, Phase.ASSIGNED, now), now)
    refusal = interface_refusal(state, known)
    if refusal is not None:
        refused = ev.OfferRefused(state.model, known.digest, known.version, refusal.reason, refusal.text)
        return offer_refused(state, refused, now)
    if known.is_settled or known.digest == state.active:
        return make_wanted(give_way(state), known, None, now)
    if known.damaged or state.not_now is not None:
        return _told_if_not_now(_as_candidate(state, known, Phase.ASSIGNED, now), now)
    return _as_candidate(state, known, Phase.RECEIVED, now)


def _as_candidate(state: ModelState, snapshot: Known, phase: Phase, now: Moment) -> ModelState:
    candidate = state.candidate
    if candidate is not None and (candidate.digest, candidate.phase) == (snapshot.digest, phase):
        return state
    return replace(give_way(state), candidate=Candidate(snapshot, phase, now.unix_ms, previous=state.active))


def _told_if_not_now(state: ModelState, now: Moment) -> ModelState:
    """It waits for better conditions, and whoever looks is told which."""
    return state if state.not_now is None else declined(state, state.not_now, state.not_now.log_line, now)


def wants(state: ModelState) -> tuple[Want, ...]:
    """Snapshots that may be offered here without an operator's hand, the assigned one first; nothing else may."""
    found = []
    wish = state.assigned
    if wish is not None and not state.held and _has_to_come(state, wish.digest):
        repair = is_repair(state, wish.digest)
        if repair or state.not_now is None:
            found.append(Want(state.model, wish.digest, wish.version, repair=repair))
    found += [
        Want(state.model, known.digest, known.version, repair=True)
        for known in state.known
        if known.damaged and not known.factory and is_repair(state, known.digest)
    ]
    return tuple({want.digest: want for want in reversed(found)}.values())[::-1]


def _has_to_come(state: ModelState, digest: str) -> bool:
    """Whether the assigned snapshot is not on its way by itself; one that was declined is offered again."""
    if state.is_quarantined(digest):
        return False
    if state.candidate and state.candidate.digest == digest:
        return state.phase in (Phase.ASSIGNED, Phase.FETCHING)
    known = state.find(digest)
    return known is None or known.damaged or digest not in (state.active, state.wanted, state.raising)
