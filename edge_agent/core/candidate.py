"""The candidate's steps from an offer to its confirmation: the handlers of the candidate table.

What serves meanwhile, and what happens when it fails, is in `serving`; the comparison with what serves is in `trial`.
"""

from __future__ import annotations

from dataclasses import replace

from edge_agent.contract import limits
from edge_agent.contract.reasons import Blame, Reason
from edge_agent.core import events as ev
from edge_agent.core import serving, trial
from edge_agent.core.judgement import Fault, Watch, fault_at_once, fault_at_the_end, is_enough, stage_of
from edge_agent.core.ladder import last_good
from edge_agent.core.serving import Refusal
from edge_agent.core.state import (
    Candidate,
    Known,
    ModelState,
    Moment,
    Phase,
    RefusedOffer,
    Status,
    with_damage,
    with_known,
)


def offer_begun(state: ModelState, event: ev.OfferBegun, now: Moment) -> ModelState | Refusal:
    """Somebody offers a snapshot with verified metadata; nothing of it has been loaded yet."""
    snapshot = event.snapshot
    record = state.is_quarantined(snapshot.digest)
    if record and not event.retry:
        return Refusal(Reason.QUARANTINED, f"{state.model}@{snapshot.version} is quarantined here: {record.reason}")
    known = state.find(snapshot.digest)
    awaited = state.phase is Phase.ASSIGNED and state.candidate and state.candidate.digest == snapshot.digest
    if known and is_repair(state, snapshot.digest) and not awaited:
        return state  # its missing chunks are taken without a new candidate
    if state.pinned:
        return Refusal(Reason.PINNED, f"{state.model} is pinned on this device")
    if state.not_now is not None:
        return Refusal(state.not_now, f"{state.model}@{snapshot.version} is not taken now: {state.not_now.log_line}")
    state = replace(state, held=state.assigned is not None and state.assigned.digest != snapshot.digest)
    refusal = interface_refusal(state, snapshot)
    if refusal is not None:
        return refusal
    phase = Phase.RECEIVED if event.complete else Phase.FETCHING
    return replace(
        give_way(state if not event.complete else _taken(state, known or snapshot)),
        candidate=Candidate(snapshot, phase, now.unix_ms, previous=state.active),
        generation=state.generation + (1 if record else 0),
        climbs=0 if record else state.climbs,
    )


def give_way(state: ModelState) -> ModelState:
    """The present candidate makes room; if it serves already it stays what to go back to, should the newer one fail."""
    wanted = state.active if state.candidate_is_active else state.wanted
    return replace(state, candidate=None, wanted=wanted)


def interface_refusal(state: ModelState, snapshot: Known) -> Refusal | None:
    """Why this snapshot must not take the wanted one's place: clients of one interface do not understand another."""
    wanted = state.find(state.wanted)
    if wanted is None or wanted.interface == snapshot.interface or state.rules.allow_interface_change:
        return None
    return Refusal(
        Reason.INTERFACE_CHANGE,
        f"{state.model}@{snapshot.version} has interface {snapshot.interface}, {wanted.interface} serves",
    )


def is_repair(state: ModelState, digest: str) -> bool:
    """Whether an offer of this snapshot mends what the device holds, rather than asking for another one to serve."""
    known = state.find(digest)
    if known is None:
        return False
    return digest == state.active or (known.damaged and (digest == state.wanted or known.confirmed_unix_ms > 0))


def offer_resumed(state: ModelState, event: ev.OfferBegun, now: Moment) -> ModelState | Refusal:
    """The same offer goes on where it stopped; another one takes its place."""
    candidate = state.candidate
    if candidate is None or candidate.digest != event.snapshot.digest:
        return offer_begun(state, event, now)
    return _received(state, candidate, now) if event.complete else state


def offer_while_busy(state: ModelState, event: ev.OfferBegun, now: Moment) -> ModelState | Refusal:
    """A candidate is between received and probation: seconds, so the offer waits. A repair is always taken."""
    candidate = state.candidate
    same = candidate is not None and candidate.digest == event.snapshot.digest
    if same or is_repair(state, event.snapshot.digest):
        return state
    busy_with = candidate.snapshot.version if candidate else "?"
    return Refusal(Reason.BUSY, f"{state.model}@{busy_with} is being brought in")


def offer_in_trial(state: ModelState, event: ev.OfferBegun, now: Moment) -> ModelState | Refusal:
    """A trial may last long: another offer takes its place, the same one changes nothing."""
    candidate = state.candidate
    same = candidate is not None and candidate.digest == event.snapshot.digest
    return state if same else offer_begun(state, event, now)


def offer_completed(state: ModelState, event: ev.OfferCompleted, now: Moment) -> ModelState | Refusal:
    """Every chunk arrived and the snapshot is visible in the store."""
    if state.candidate is None or state.candidate.digest != event.digest:
        return _stale(state, event)
    return _received(state, state.candidate, now)


def _received(state: ModelState, candidate: Candidate, now: Moment) -> ModelState:
    return _in_phase(_taken(state, candidate.snapshot), Phase.RECEIVED, now)


def _taken(state: ModelState, snapshot: Known) -> ModelState:
    """It is here now: why it was turned away before says nothing any more."""
    refused = tuple(refused for refused in state.refused_offers if refused.digest != snapshot.digest)
    before = state.find(snapshot.digest)  # brought again for damage, say: what it has shown still counts
    here = snapshot if before is None else replace(before, damaged=False)
    return with_known(replace(state, refused_offers=refused), here)


def offer_abandoned(state: ModelState, event: ev.OfferAbandoned, now: Moment) -> ModelState | Refusal:
    """Whoever offered it is gone: no candidate any more; chunks are kept for a while."""
    if state.candidate is None or state.candidate.digest != event.digest:
        return _stale(state, event)
    return replace(declined(state, event.reason, "", now), candidate=None)


def verify_passed(state: ModelState, event: ev.VerifyPassed, now: Moment) -> ModelState | Refusal:
    """Evidence and bytes hold on this disk: it may be loaded, unless a worker that proved it is here already."""
    if state.candidate is None or state.candidate.digest != event.digest:
        return _stale(state, event)
    if state.live_count(event.digest):  # taken over from an earlier runtime
        return proven(state, state.candidate, now)
    return _in_phase(state, Phase.VERIFIED, now)


def verify_failed(state: ModelState, event: ev.VerifyFailed, now: Moment) -> ModelState | Refusal:
    """Evidence or bytes do not hold."""
    if state.candidate is None or state.candidate.digest != event.digest:
        return _stale(state, event)
    return failed(state, event.reason, event.detail, now)


def failed(state: ModelState, reason: Reason, detail: str, now: Moment) -> ModelState:
    """End the candidate: damage and declined reasons leave its name clean, everything else quarantines it."""
    candidate = state.candidate
    if candidate is None:
        return state
    if reason is Reason.DAMAGE:
        state = with_damage(state, candidate.digest, damaged=True)
    elif reason.blame is Blame.DECLINED:
        state = declined(state, reason, detail, now)
    else:
        state = serving.quarantine(state, candidate.digest, candidate.snapshot.version, reason, detail, now)
    state = replace(state, candidate=None)
    if candidate.digest in (state.active, state.raising):
        return serving.descend(replace(state, raising=None), _fallback(reason), now)
    return state


def declined(state: ModelState, reason: Reason, detail: str, now: Moment) -> ModelState:
    """Remember that the candidate could not be taken now, which says nothing against it."""
    if state.candidate is None:
        return state
    snapshot, text = state.candidate.snapshot, detail[: limits.DETAIL_CHARS_MAX]
    record = RefusedOffer(snapshot.digest, snapshot.version, reason, text, now.unix_ms)
    before = state.declined
    if before and (before.digest, before.reason, before.detail) == (record.digest, record.reason, record.detail):
        return state  # told once
    return replace(state, declined=record)


_SPEAK_OF_SERVING = frozenset(
    {Reason.PROBATION_CRASH, Reason.NON_FINITE, Reason.ERROR_RATE, Reason.LATENCY, Reason.DRIFT, Reason.PROOF}
)


def _fallback(reason: Reason) -> Reason:
    return reason if reason.blame is Blame.FALLBACK or reason in _SPEAK_OF_SERVING else Reason.LOAD_REFUSED


def worker_up_proves(state: ModelState, event: ev.WorkerUp, now: Moment) -> ModelState:
    """The candidate loaded and reproduced its golden vectors."""
    state = serving.remember_worker(state, event, now)
    return proven(state, state.candidate, now) if state.candidate else state


def proven(state: ModelState, candidate: Candidate, now: Moment) -> ModelState:
    """On to a trial beside what serves; where none is possible, requests go to it as soon as the front has switched."""
    if trial.is_possible(state):
        return trial.begin(state, candidate, now)
    previous = candidate.previous if candidate.digest == state.active else state.active or candidate.previous
    state = replace(state, candidate=replace(candidate, previous=previous))
    return replace(
        _in_phase(state, Phase.PROVEN, now),
        status=Status.UP,
        active=candidate.digest,
        active_since_unix_ms=now.unix_ms,
        raising=None,
    )


def bring_up_failed(state: ModelState, event: ev.BringUpFailed, now: Moment) -> ModelState:
    """The candidate did not load, or its golden vectors disagree."""
    if state.live_count(event.digest):
        return state  # it serves already: only a second worker failed, and is tried again
    return failed(state, event.reason, event.detail, now)


def routed(state: ModelState, event: ev.Routed, now: Moment) -> ModelState:
    """The front has switched to the candidate: its probation begins."""
    return begin_probation(state, now) if state.candidate_is_active else state


def begin_probation(state: ModelState, now: Moment) -> ModelState:
    """All requests go to the candidate and it is watched; what a trial saw of the other one stays to compare with."""
    baseline = state.watch.baseline if state.watch else Watch(0.0).baseline
    return replace(
        _in_phase(state, Phase.PROBATION, now),
        watch=Watch(now.monotonic_s, baseline=baseline),
        stage_ends_s=now.monotonic_s + state.rules.probation_s,
    )


def promoted(state: ModelState, now: Moment) -> ModelState:
    """The candidate takes the place of what it was compared with."""
    if state.candidate is None:
        return state
    return begin_probation(
        replace(
            state,
            candidate=replace(state.candidate, share_percent=None),
            status=Status.UP,
            active=state.candidate.digest,
            active_since_unix_ms=now.unix_ms,
            raising=None,
        ),
        now,
    )


def left_behind(state: ModelState) -> ModelState:
    """A candidate in probation that the ladder had to leave, for its damaged bytes cannot be loaded, is none any more:
    once it is whole again it goes its way from the beginning.
    """
    candidate = state.candidate
    if candidate is None or state.phase is not Phase.PROBATION or candidate.digest in (state.active, state.raising):
        return state
    return replace(state, candidate=None)


def stands_in(state: ModelState, now: Moment) -> ModelState:
    """Requests went to the candidate before its trial was over: it was the next rung of the ladder, or nothing else can
    serve any more and a proven candidate beats none. It is watched from now on.
    """
    candidate = state.candidate
    if candidate is None or not state.in_trial:
        return state
    if state.candidate_is_active:
        return promoted(state, now)
    if state.status is not Status.DOWN:
        return state
    return promoted(state, now) if state.live_count(candidate.digest) else state


def observed(state: ModelState, event: ev.Observed, now: Moment) -> ModelState:
    """Answers were counted: what they say of the candidate may end its trial or probation."""
    return _judged(trial.observe(state, event), now)


def _judged(state: ModelState, now: Moment) -> ModelState:
    if state.phase is Phase.TRIAL:
        outcome = trial.judged(state, now, promoted)
        return failed(state, outcome.reason, outcome.detail, now) if isinstance(outcome, Fault) else outcome
    return _judged_in_probation(state, now) if state.phase is Phase.PROBATION else state


def _judged_in_probation(state: ModelState, now: Moment) -> ModelState:
    """Confirmed once time and answers suffice, a worker is alive and nothing speaks against it; a bad model beats
    none.
    """
    watch, candidate = state.watch, state.candidate
    if watch is None or candidate is None:
        return state
    stage = stage_of(state.rules, None)
    enough = is_enough(stage, watch, now.monotonic_s)
    fault = fault_at_once(state.rules, stage, watch) or (fault_at_the_end(state.rules, watch) if enough else None)
    if fault is not None and serving.has_rung_below(state):
        return failed(state, fault.reason, fault.detail, now)
    speaks_against = fault is not None or serving.is_crash_loop(state, candidate.digest)
    if enough and not speaks_against and state.live_count(candidate.digest):
        return _confirmed(state, candidate, now)
    if state.stage_ends_s is None or now.monotonic_s < state.stage_ends_s:
        return state
    if speaks_against:  # a later time tells more than this one
        state = replace(state, watch=Watch(now.monotonic_s, baseline=watch.baseline))
    return replace(state, stage_ends_s=now.monotonic_s + state.settings.retry_s)


def _confirmed(state: ModelState, candidate: Candidate, now: Moment) -> ModelState:
    known = state.find(candidate.digest) or candidate.snapshot
    newest = max((one.confirmed_unix_ms for one in state.known), default=0)
    at_unix_ms = max(now.unix_ms, newest + 1)  # it is an order: a clock that was set back must not turn it round
    state = with_known(state, replace(known, confirmed_unix_ms=at_unix_ms))
    return replace(
        state,
        candidate=None,
        wanted=candidate.digest,
        fallback_reason=None,
        refused_rungs=(),
        retry_at_s=None,
        climbs=0,
    )


def worker_up_again(state: ModelState, event: ev.WorkerUp, now: Moment) -> ModelState:
    """In probation after a restart: the candidate serves again, and its time begins anew."""
    raised = state.raising == event.digest
    state = serving.remember_worker(state, event, now)
    if not raised:
        return state
    state = replace(state, status=Status.UP, active=event.digest, raising=None, active_since_unix_ms=now.unix_ms)
    return begin_probation(state, now)


def watch_unconfirmed(state: ModelState, now: Moment) -> ModelState:
    """What serves as the wanted snapshot was confirmed once, or is watched until it is; called after every handler.

    Not confirmed are: a snapshot whose probation was cut short by a newer offer that came to nothing, one that an
    operator went back to, and one that serves after the records were lost. The factory snapshot needs no confirmation.
    """
    active = state.find(state.active)
    if state.candidate or state.status is not Status.UP or active is None:
        return state
    if active.is_settled or active.digest != state.wanted:
        return state
    good = last_good(state)
    candidate = Candidate(active, Phase.PROBATION, now.unix_ms, previous=good.digest if good else None)
    return begin_probation(replace(state, candidate=candidate), now)


def worker_crashed(state: ModelState, event: ev.WorkerCrashed, now: Moment) -> ModelState:
    """Crashes on different requests speak against the candidate, also after it has taken over; but a flaky model beats
    none.
    """
    state = serving.note_crash(state, event, now)
    if state.candidate_is_active and not serving.has_rung_below(state):
        return state
    if event.fingerprint == serving.GOLDEN_VECTOR:
        return failed(state, Reason.PROOF, "a golden vector gave another output than at the proof", now)
    if not serving.is_crash_loop(state, event.digest):
        return state
    return failed(state, Reason.PROBATION_CRASH, serving.CRASH_LOOP_DETAIL, now)


def woke(state: ModelState, event: ev.Woke, now: Moment) -> ModelState:
    """Time has passed: for the candidate, and for what waits to be tried again."""
    if state.stage_ends_s is not None and now.monotonic_s >= state.stage_ends_s:
        state = _judged(state, now)
    return serving.woke(state, event, now)


def _in_phase(state: ModelState, phase: Phase, now: Moment) -> ModelState:
    if state.candidate is None:
        return state
    return replace(state, candidate=replace(state.candidate, phase=phase, since_unix_ms=now.unix_ms))


def _stale(state: ModelState, event: ev.Event) -> Refusal:
    return Refusal(Reason.OUT_OF_ORDER, f"{state.model}: {type(event).__name__} is not about the present candidate")
