"""What has to be done and told about a change of state, derived from (old, new); no decision is made here."""

from __future__ import annotations

from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind
from edge_agent.core import events as ev
from edge_agent.core.actions import Action, DropOffer, KeepWorkers, Route, Tell, Verify
from edge_agent.core.ladder import last_good
from edge_agent.core.state import ModelState, Phase, Quarantine, RefusedOffer


def effects(old: ModelState, new: ModelState, event: ev.Event) -> tuple[Action, ...]:
    """Actions for this change, the most urgent first: where requests go, which workers, then the rest."""
    booted = isinstance(event, ev.Booted)
    actions: list[Action] = []
    entered = new.phase if _candidate_step(old) != _candidate_step(new) else None
    if booted or _route(old) != _route(new) or entered is Phase.PROVEN:
        actions.append(_route(new))  # a proven candidate waits for the answer, also where requests go to it already
    wishes = wanted_workers(new)
    if booted or isinstance(event, ev.WorkerDied) or wishes != wanted_workers(old):
        actions.append(KeepWorkers(new.model, wishes))
    received = new.phase is Phase.RECEIVED and (booted or entered is Phase.RECEIVED)
    if received and new.candidate:
        actions.append(Verify(new.model, new.candidate.digest))
    if (
        old.phase is Phase.FETCHING
        and old.candidate
        and (new.candidate is None or new.candidate.digest != old.candidate.digest)
    ):
        actions.append(DropOffer(new.model, old.candidate.digest))
    return (*actions, *_told(old, new, event))


def wanted_workers(state: ModelState) -> tuple[str, ...]:
    """Digests of the workers that should be loaded, the most urgent first; one entry a worker."""
    wishes: list[str] = []
    if state.active is not None:
        wishes.append(state.active)
    if state.raising is not None:
        wishes.append(state.raising)
    if state.candidate is not None and state.phase is Phase.VERIFIED and state.candidate.digest not in wishes:
        wishes.append(state.candidate.digest)
    spare = _spare(state)
    return (*wishes, spare) if spare is not None else tuple(wishes)


def _spare(state: ModelState) -> str | None:
    """In probation the previous active snapshot; in steady state a second active one; on a damaged disk the last good
    one.

    A damaged active snapshot cannot be loaded a second time, but a second worker that is loaded already is kept.
    """
    if not state.settings.spare or state.active is None:
        return None
    if state.candidate_is_active and state.candidate and state.candidate.previous:
        previous = state.find(state.candidate.previous)
        if previous and (not previous.damaged or state.live_count(previous.digest)):
            return previous.digest
    active = state.find(state.active)
    if active is None or not active.damaged or state.live_count(state.active) > 1:
        return state.active
    good = last_good(state)
    return good.digest if good and not good.damaged and state.is_quarantined(good.digest) is None else None


def _route(state: ModelState) -> Route:
    """While a rung is brought up requests already wait for it, so that its interface checks them."""
    return Route(state.model, state.active or state.raising, state.fallback_reason)


def _candidate_step(state: ModelState) -> tuple[str, Phase] | None:
    return (state.candidate.digest, state.candidate.phase) if state.candidate else None


def _told(old: ModelState, new: ModelState, event: ev.Event) -> list[Tell]:
    """Facts for the journal and the outbox: every change that an operator would want to read later."""
    asked = isinstance(event, ev.OfferBegun | ev.RollbackAsked | ev.AssignmentTaken)
    superseded = _told_of_superseded(old, new) if asked else []
    return [
        *_told_of_damage(old, new),
        *_told_of_records(old, new),
        *_told_of_wish(old, new),
        *superseded,
        *_told_of_steps(old, new),
    ]


def _told_of_wish(old: ModelState, new: ModelState) -> list[Tell]:
    """The coordinator's wish was taken (its policy alone is not worth a line)."""
    wish = new.assigned
    if wish is None or (old.assigned and (old.assigned.order, old.assigned.digest) == (wish.order, wish.digest)):
        return []
    detail = f"epoch {wish.epoch}, generation {wish.generation}"
    return [Tell(new.model, ReportKind.ASSIGNED, wish.digest, wish.version, detail=detail)]


def _told_of_superseded(old: ModelState, new: ModelState) -> list[Tell]:
    """A candidate that gave way to a newer wish."""
    if old.candidate is None or (new.candidate and new.candidate.digest == old.candidate.digest):
        return []
    snapshot = old.candidate.snapshot
    return [Tell(new.model, ReportKind.DECLINED, snapshot.digest, snapshot.version, reason=Reason.SUPERSEDED)]


def _told_of_damage(old: ModelState, new: ModelState) -> list[Tell]:
    was_damaged = {known.digest for known in old.known if known.damaged}
    return [
        Tell(
            new.model,
            ReportKind.DAMAGE if known.damaged else ReportKind.REPAIRED,
            known.digest,
            known.version,
        )
        for known in new.known
        if known.damaged != (known.digest in was_damaged)
    ]


def _told_of_records(old: ModelState, new: ModelState) -> list[Tell]:
    """Quarantined, refused and declined snapshots, each with its reason."""
    records: list[tuple[ReportKind, Quarantine | RefusedOffer]] = []
    records += [(ReportKind.QUARANTINED, record) for record in new.quarantine if record not in old.quarantine]
    records += [(ReportKind.REFUSED, offer) for offer in new.refused_offers if offer not in old.refused_offers]
    if new.declined and new.declined != old.declined:
        records.append((ReportKind.DECLINED, new.declined))
    return [
        Tell(new.model, kind, record.digest, record.version, reason=record.reason, detail=record.detail)
        for kind, record in records
    ]


def _told_of_steps(old: ModelState, new: ModelState) -> list[Tell]:
    """A candidate's phases, its confirmation, and what serves."""
    told: list[Tell] = []
    if new.candidate and _candidate_step(old) != _candidate_step(new):
        snapshot = new.candidate.snapshot
        told.append(Tell(new.model, ReportKind.PHASE, snapshot.digest, snapshot.version, phase=new.phase.value))
    if old.candidate and _is_confirmed(new, old.candidate.digest) and not _is_confirmed(old, old.candidate.digest):
        snapshot = old.candidate.snapshot
        told.append(Tell(new.model, ReportKind.PHASE, snapshot.digest, snapshot.version, phase="confirmed"))
    if (old.active, old.status, old.fallback_reason) != (new.active, new.status, new.fallback_reason):
        active = new.find(new.active)
        version = active.version if active else None
        told.append(
            Tell(
                new.model,
                ReportKind.SERVING,
                new.active,
                version,
                phase=new.status.value,
                reason=new.fallback_reason,
            )
        )
    return told


def _is_confirmed(state: ModelState, digest: str) -> bool:
    known = state.find(digest)
    return known is not None and known.confirmed_unix_ms > 0
