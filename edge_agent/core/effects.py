"""What has to be done and told about a change of state, derived from (old, new); no decision is made here."""

from __future__ import annotations

from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind
from edge_agent.core import events as ev
from edge_agent.core.actions import Action, DropOffer, KeepWorkers, Route, Share, Tell, Verify
from edge_agent.core.ladder import last_good
from edge_agent.core.state import ModelState, Phase, Quarantine, RefusedOffer

_WISHES = (ev.OfferBegun, ev.RollbackAsked, ev.PinAsked, ev.UnpinAsked, ev.AssignmentTaken, ev.ConditionsSeen)


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
    loaded = state.phase is Phase.VERIFIED or state.in_trial
    if state.candidate is not None and loaded and state.candidate.digest not in wishes:
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
    share = None
    if state.candidate and state.candidate.share_percent is not None and state.active is not None:
        share = Share(state.candidate.digest, state.candidate.share_percent)
    watched = share is not None or state.phase is Phase.PROBATION
    return Route(state.model, state.active or state.raising, state.fallback_reason, share, watched)


def _candidate_step(state: ModelState) -> tuple[str, Phase, int | None] | None:
    candidate = state.candidate
    return (candidate.digest, candidate.phase, candidate.share_percent) if candidate else None


def _told(old: ModelState, new: ModelState, event: ev.Event) -> list[Tell]:
    """Facts for the journal and the outbox: every change that an operator would want to read later."""
    asked = isinstance(event, _WISHES)
    superseded = _told_of_superseded(old, new) if asked else []
    return [
        *_told_of_damage(old, new),
        *_told_of_records(old, new),
        *_told_of_wish(old, new),
        *_told_of_choice(old, new, event),
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


def _told_of_choice(old: ModelState, new: ModelState, event: ev.Event) -> list[Tell]:
    """Somebody on the device chose, or took that back."""
    words = {ev.RollbackAsked: "rolled back", ev.PinAsked: "pinned", ev.UnpinAsked: "unpinned"}
    word = words.get(type(event))
    before, after = ((one.wanted, one.held, one.pinned, one.generation) for one in (old, new))
    if word is None or before == after:
        return []
    wanted = new.find(new.wanted)
    version = wanted.version if wanted else None
    return [Tell(new.model, ReportKind.OPERATOR, new.wanted, version, reason=Reason.OPERATOR, detail=word)]


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
        snapshot, detail = new.candidate.snapshot, _share_in_words(new.candidate.share_percent)
        phase = new.phase.value
        told.append(Tell(new.model, ReportKind.PHASE, snapshot.digest, snapshot.version, phase=phase, detail=detail))
    if old.candidate and _is_confirmed(new, old.candidate.digest) and not _is_confirmed(old, old.candidate.digest):
        snapshot = old.candidate.snapshot
        told.append(Tell(new.model, ReportKind.PHASE, snapshot.digest, snapshot.version, phase="confirmed"))
    if _serving_facts(old) != _serving_facts(new):
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


def _serving_facts(state: ModelState) -> tuple[object, ...]:
    """What of serving is worth a line; that the ladder is tried again and again while nothing serves is not."""
    return state.active, state.fallback_reason, state.status if state.active else None


def _share_in_words(share_percent: int | None) -> str:
    if share_percent is None:
        return ""
    return f"share {share_percent} %" if share_percent else "shadow"


def _is_confirmed(state: ModelState, digest: str) -> bool:
    known = state.find(digest)
    return known is not None and known.confirmed_unix_ms > 0
