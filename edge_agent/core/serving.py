"""What serves and what takes its place: the handlers of the serving table; the candidate's own steps are in
`candidate`.

Each handler takes (state, event, now) and answers the new state or a refusal; actions are derived in `effects`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.contract import limits
from edge_agent.contract.reasons import Blame, Reason
from edge_agent.core import events as ev
from edge_agent.core.ladder import last_good, next_rung, rungs
from edge_agent.core.state import (
    Crash,
    Known,
    LiveWorker,
    ModelState,
    Moment,
    Quarantine,
    RefusedOffer,
    Status,
    with_damage,
    with_known,
)

CRASH_LOOP_DETAIL = "workers crashed on different requests"
GOLDEN_VECTOR = "golden vector"  # the fingerprint of a replayed one, whose evidence needs no second request


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that does not lead anywhere: nothing changes, and whoever asked is told why."""

    reason: Reason
    text: str


def serve(state: ModelState, digest: str, now: Moment) -> ModelState:
    """Requests go to this snapshot from now on: it is loaded and proven."""
    wanted = state.wanted or digest
    at_goal = digest == wanted
    return replace(
        state,
        status=Status.UP,
        active=digest,
        active_since_unix_ms=now.unix_ms,
        raising=None,
        wanted=wanted,
        fallback_reason=None if at_goal else state.fallback_reason,
        refused_rungs=() if at_goal else state.refused_rungs,
        retry_at_s=None if at_goal else state.retry_at_s,
        retries=0,
    )


def bring_up(state: ModelState, digest: str, now: Moment) -> ModelState:
    """Make this snapshot the active one: at once if a worker of it is loaded, else as soon as one is."""
    if state.live_count(digest):
        return serve(state, digest, now)
    status = Status.RAISING if state.active is None else Status.CHANGING
    return replace(state, status=status, raising=digest)


def descend(state: ModelState, reason: Reason, now: Moment) -> ModelState:
    """Leave the active snapshot, or the rung that failed, for the next rung of the ladder."""
    target = next_rung(state)
    if target is None:
        return replace(
            state,
            status=Status.DOWN,
            active=None,
            raising=None,
            fallback_reason=Reason.LADDER_EXHAUSTED,
            retry_at_s=now.monotonic_s + retry_pause_s(state),
            retries=state.retries + 1,
        )
    stepped = replace(
        state,
        active=None,
        status=Status.RAISING,
        raising=target,
        fallback_reason=reason,
        fallbacks=state.fallbacks + (1 if state.active is not None else 0),
    )
    return bring_up(stepped, target, now)


def retry_pause_s(state: ModelState) -> float:
    """Seconds until an exhausted ladder is tried again: retry_s, doubling to RETRY_MAX_S."""
    return float(min(state.settings.retry_s * 2 ** min(state.retries, 16), limits.RETRY_MAX_S))


def quarantine(state: ModelState, digest: str, version: str, reason: Reason, detail: str, now: Moment) -> ModelState:
    """Record that this snapshot failed here in the present generation; it is not the wanted one any more."""
    record = Quarantine(digest, version, state.generation, reason, detail[: limits.DETAIL_CHARS_MAX], now.unix_ms)
    others = tuple(q for q in state.quarantine if q.digest != digest)
    state = replace(state, quarantine=(*others, record)[-limits.QUARANTINE_RECORDS_MAX :])
    return replace(state, wanted=next(iter(rungs(state)), None)) if digest == state.wanted else state


def remember_worker(state: ModelState, event: ev.WorkerUp, now: Moment) -> ModelState:
    """A loaded worker more."""
    others = tuple(worker for worker in state.live if worker.worker_id != event.worker_id)
    return replace(state, live=(*others, LiveWorker(event.worker_id, event.digest)))


def worker_up_raises(state: ModelState, event: ev.WorkerUp, now: Moment) -> ModelState:
    """The rung that was being brought up can serve."""
    state = remember_worker(state, event, now)
    return serve(state, event.digest, now) if event.digest == state.raising else state


def bring_up_failed(state: ModelState, event: ev.BringUpFailed, now: Moment) -> ModelState:
    """A rung, the active snapshot's next worker, or a spare did not come up."""
    if event.reason is Reason.DAMAGE:
        state = with_damage(state, event.digest, damaged=True)
    if event.digest == state.raising:
        return _rung_refused(state, event, now)
    if event.digest == state.active and not state.live_count(event.digest):
        return descend(_without_rung(state, event.digest), _fallback_reason(event.reason), now)
    return state


def _rung_refused(state: ModelState, event: ev.BringUpFailed, now: Moment) -> ModelState:
    state = _without_rung(state, event.digest)
    if state.status is Status.RAISING:
        return descend(state, _fallback_reason(event.reason), now)
    wanted = state.active if state.fallback_reason is Reason.OPERATOR else state.wanted
    return replace(
        state,
        status=Status.UP,
        raising=None,
        wanted=wanted,
        fallback_reason=None if wanted == state.active else _fallback_reason(event.reason),
    )


def _fallback_reason(reason: Reason) -> Reason:
    return reason if reason.blame is Blame.FALLBACK else Reason.LOAD_REFUSED


def _without_rung(state: ModelState, digest: str) -> ModelState:
    """This snapshot is no rung for the rest of the descent."""
    return replace(state, refused_rungs=tuple(dict.fromkeys((*state.refused_rungs, digest))))


def worker_died(state: ModelState, event: ev.WorkerDied, now: Moment) -> ModelState:
    """A loaded worker is gone. The next one is brought up, unless its bytes are known to be damaged."""
    state = replace(state, live=tuple(w for w in state.live if w.worker_id != event.worker_id))
    known = state.find(event.digest)
    if event.digest == state.active and not state.live_count(event.digest) and known and known.damaged:
        return descend(state, Reason.DAMAGE, now)
    return state


def note_crash(state: ModelState, event: ev.WorkerCrashed, now: Moment) -> ModelState:
    """Remember a crash, and forget those outside the window."""
    recent = [crash for crash in state.crashes if now.monotonic_s - crash.at_s <= limits.CRASH_WINDOW_S]
    crash = Crash(event.digest, event.fingerprint, now.monotonic_s)
    return replace(state, crashes=(*recent, crash)[-limits.CRASHES_REMEMBERED_MAX :])


def is_crash_loop(state: ModelState, digest: str) -> bool:
    """Whether the crashes in the window, by at least two different requests or golden vectors, speak against the
    snapshot itself.
    """
    fingerprints = [crash.fingerprint for crash in state.crashes if crash.digest == digest]
    enough = len(fingerprints) >= limits.CRASH_EVIDENCE_MIN
    return enough and (len(set(fingerprints)) >= 2 or GOLDEN_VECTOR in fingerprints)


def worker_crashed(state: ModelState, event: ev.WorkerCrashed, now: Moment) -> ModelState:
    """Crashes of a confirmed snapshot lead down the ladder, if there is a rung below; a flaky model beats none."""
    state = note_crash(state, event, now)
    if event.digest != state.active or not is_crash_loop(state, event.digest) or not has_rung_below(state):
        return state
    active = state.find(event.digest)
    if active and not active.is_settled:  # its probation was cut short by a newer offer
        state = quarantine(state, active.digest, active.version, Reason.PROBATION_CRASH, CRASH_LOOP_DETAIL, now)
        return descend(state, Reason.PROBATION_CRASH, now)
    return descend(_without_rung(state, event.digest), Reason.CRASH_LOOP, now)


def has_rung_below(state: ModelState) -> bool:
    """Whether the ladder holds anything but what serves."""
    return state.active is None or next_rung(_without_rung(state, state.active)) is not None


def routed(state: ModelState, event: ev.Routed, now: Moment) -> ModelState:
    """The front has switched: nothing more to decide outside of a candidate's steps."""
    return state


def damage_found(state: ModelState, event: ev.DamageFound, now: Moment) -> ModelState:
    """Loaded bytes go on serving; only a snapshot without a loaded copy has to be left."""
    state = with_damage(state, event.digest, damaged=True)
    if event.digest == state.active and not state.live_count(event.digest):
        return descend(state, Reason.DAMAGE, now)
    return state


def repaired(state: ModelState, event: ev.Repaired, now: Moment) -> ModelState:
    """A snapshot is whole again: climb back to it if it is the wanted one."""
    state = with_damage(state, event.digest, damaged=False)
    state = replace(state, refused_rungs=tuple(d for d in state.refused_rungs if d != event.digest))
    return climb(state, now)


def climb(state: ModelState, now: Moment) -> ModelState:
    """Bring up the best rung, if it is better than what serves; a candidate in its own steps is not disturbed."""
    best = next_rung(state)
    if best is None or best in (state.active, state.raising) or state.status is Status.RAISING:
        return state
    if state.active is not None and (best != state.wanted or state.candidate_is_active or state.in_trial):
        return state
    return bring_up(state, best, now)


def make_wanted(state: ModelState, target: Known, reason: Reason | None, now: Moment) -> ModelState:
    """A snapshot that is here becomes the wanted one, and any candidate gives way; reason: said until it serves."""
    state = replace(state, candidate=None, wanted=target.digest, refused_rungs=(), retry_at_s=None)
    if target.digest == state.active:
        return replace(state, status=Status.UP, raising=None, fallback_reason=None)
    if target.damaged:
        return replace(state, fallback_reason=Reason.DAMAGE)  # its repair brings it up
    return bring_up(replace(state, fallback_reason=reason), target.digest, now)


def offer_refused(state: ModelState, event: ev.OfferRefused, now: Moment) -> ModelState:
    """Remember who was turned away and why; nothing that was believed before changes."""
    record = RefusedOffer(
        event.digest, event.version, event.reason, event.detail[: limits.DETAIL_CHARS_MAX], now.unix_ms
    )
    if any(
        (r.digest, r.reason, r.detail) == (record.digest, record.reason, record.detail) for r in state.refused_offers
    ):
        return state  # offered again, and again for the same reason: told once
    others = tuple(refused for refused in state.refused_offers if refused.digest != event.digest)
    return replace(state, refused_offers=(*others, record)[-limits.REFUSED_OFFERS_MAX :])


def minimum_stated(state: ModelState, event: ev.MinimumStated, now: Moment) -> ModelState:
    """The newest metadata that this device believes replaces what the publisher stated before."""
    return replace(state, minimum=event.minimum)


def forgotten(state: ModelState, event: ev.Forgotten, now: Moment) -> ModelState | Refusal:
    """Retention removed a snapshot; never one that is needed."""
    if event.digest in needed_digests(state):
        return Refusal(Reason.OUT_OF_ORDER, f"{state.model}: {event.digest[:12]} is needed and was not to be removed")
    return replace(state, known=tuple(known for known in state.known if known.digest != event.digest))


def needed_digests(state: ModelState) -> frozenset[str]:
    """What retention keeps whatever the budget: active, wanted, being raised, last good, candidate, factory."""
    good = last_good(state)
    needed = {state.active, state.wanted, state.raising, good.digest if good else None}
    if state.candidate:
        needed |= {state.candidate.digest, state.candidate.previous}
    needed |= {known.digest for known in state.known if known.factory}
    return frozenset(digest for digest in needed if digest is not None)


def woke(state: ModelState, event: ev.Woke, now: Moment) -> ModelState:
    """Time to try again what refused to come up, or had to be left; and to forget what has been steady since."""
    if state.steady_at_s is not None and now.monotonic_s >= state.steady_at_s:
        state = replace(_with_unclean_starts(state, state.active, 0), steady_at_s=None)
    if state.retry_at_s is None or now.monotonic_s < state.retry_at_s:
        return state
    state = replace(state, retry_at_s=None, refused_rungs=())
    if state.status is Status.DOWN:
        if not rungs(state):
            return replace(state, retry_at_s=now.monotonic_s + retry_pause_s(state), retries=state.retries + 1)
        return climb(state, now)
    return _climb_back(state, now)


def _climb_back(state: ModelState, now: Moment) -> ModelState:
    """Up again to the wanted snapshot. One more unclean start and it is left again."""
    wanted = state.find(state.wanted)
    second_chance = state
    if wanted is not None and wanted.unclean_starts > limits.UNCLEAN_STARTS_MAX:
        second_chance = _with_unclean_starts(state, wanted.digest, limits.UNCLEAN_STARTS_MAX)
    climbed = climb(second_chance, now)
    return state if climbed == second_chance else replace(climbed, climbs=state.climbs + 1)


def _with_unclean_starts(state: ModelState, digest: str | None, count: int) -> ModelState:
    known = state.find(digest)
    return with_known(state, replace(known, unclean_starts=count)) if known else state
