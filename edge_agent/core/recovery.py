"""What a boot makes of the saved state, what the store still holds and the workers that are still alive.

A boot is an ordinary event; the table below is total over the candidate's saved phase. Unknown or impossible
combinations end in the fallback ladder: the device serves the best snapshot that verifies.
"""

from __future__ import annotations

from dataclasses import replace

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.candidate import begin_probation
from edge_agent.core.ladder import next_rung
from edge_agent.core.serving import quarantine, serve
from edge_agent.core.state import Candidate, Known, ModelState, Moment, Phase, Status, persistent_part

# Saved phase -> the phase in which the candidate goes on (NONE: it is dropped and has to be offered again).
RESUME_PHASE: dict[Phase, Phase] = {
    Phase.NONE: Phase.NONE,
    Phase.ASSIGNED: Phase.ASSIGNED,
    Phase.FETCHING: Phase.FETCHING,
    Phase.RECEIVED: Phase.RECEIVED,
    Phase.VERIFIED: Phase.RECEIVED,  # the disk is not believed across a boot: verified again
    Phase.PROVEN: Phase.RECEIVED,  # the front may not have switched: proven again
    Phase.TRIAL: Phase.RECEIVED,  # compared anew, from the first step on
    Phase.PROBATION: Phase.PROBATION,  # it served: it serves again, and its time begins anew
}


# From the first load on a candidate may be what took the device down.
LOADED_PHASES = (Phase.VERIFIED, Phase.PROVEN, Phase.TRIAL, Phase.PROBATION)


def boot(state: ModelState, event: ev.Booted, now: Moment) -> ModelState:
    """The state in which the device goes on after a start of the runtime, for whatever cause it started.

    A start is unclean when nobody asked the runtime to stop and no worker outlived it: then it was the device that went
    down. It counts against what was being tried, or else against what served, before any of it is loaded again.
    """
    unclean = not state.clean_stop and not event.live
    known = tuple(_remembered(state, found, unclean=unclean) for found in event.known)
    digests = {found.digest for found in known}
    fresh = replace(
        persistent_part(state),
        settings=event.settings,
        status=Status.EMPTY,
        active=None,
        raising=None,
        known=known,
        candidate=_resumed(state.candidate, digests, now, unclean=unclean),
        wanted=state.wanted if state.wanted in digests else None,
        clean_stop=False,
        live=tuple(worker for worker in event.live if worker.digest in digests),
    )
    return _choose(_struck_out(fresh, now), state.active, now)


def stopping(state: ModelState, event: ev.Stopping, now: Moment) -> ModelState:
    """Remembered for the next boot."""
    return replace(state, clean_stop=True)


def _struck_out(state: ModelState, now: Moment) -> ModelState:
    """The device went down too often with this candidate."""
    candidate = state.candidate
    if candidate is None or candidate.unclean_starts <= state.rules.unclean_starts_max:
        return state
    text = f"{candidate.unclean_starts} starts without a clean stop before"
    state = replace(state, candidate=None)
    return quarantine(state, candidate.digest, candidate.snapshot.version, Reason.UNCLEAN_STARTS, text, now)


def _choose(state: ModelState, served_before: str | None, now: Moment) -> ModelState:
    """Serve from a living worker if there is one; else bring up the best rung."""
    watched = state.candidate.digest if state.candidate and state.phase is Phase.PROBATION else None
    if served_before is not None and state.live_count(served_before):
        up = replace(state, status=Status.UP, active=served_before, active_since_unix_ms=state.active_since_unix_ms)
        if watched == served_before:
            return begin_probation(up, now)
        return replace(up, wanted=up.wanted or served_before, retry_at_s=now.monotonic_s)
    target = watched or next_rung(state)
    if target is None:
        return replace(state, status=Status.DOWN if state.known else Status.EMPTY, fallback_reason=None)
    wanted = state.find(state.wanted)
    if wanted is not None and target != wanted.digest and wanted.unclean_starts > limits.UNCLEAN_STARTS_MAX:
        again = state.fallback_reason is Reason.RESTART_LOOP
        state = replace(
            state, fallback_reason=Reason.RESTART_LOOP, fallbacks=state.fallbacks + (0 if again or watched else 1)
        )
    if watched is None and state.live_count(target):
        return serve(state, target, now)
    return replace(state, status=Status.RAISING, raising=target)


def _remembered(state: ModelState, found: Known, *, unclean: bool) -> Known:
    """What the store found, with what the saved state remembers of it."""
    saved = state.find(found.digest)
    if saved is None:
        return found
    struck = unclean and found.digest == state.active and not _was_tried(state.candidate)
    strikes = min(saved.unclean_starts + struck, limits.UNCLEAN_STARTS_MAX + 1)
    return replace(found, confirmed_unix_ms=saved.confirmed_unix_ms, unclean_starts=strikes)


def _was_tried(candidate: Candidate | None) -> bool:
    return candidate is not None and candidate.phase in LOADED_PHASES


def _resumed(candidate: Candidate | None, digests: set[str], now: Moment, *, unclean: bool) -> Candidate | None:
    if candidate is None:
        return None
    phase = RESUME_PHASE[candidate.phase]
    if phase is Phase.FETCHING and candidate.digest in digests:
        phase = Phase.RECEIVED  # it became visible just before the end
    if phase not in (Phase.ASSIGNED, Phase.FETCHING) and candidate.digest not in digests:
        return None
    strikes = candidate.unclean_starts + (unclean and _was_tried(candidate))
    return replace(candidate, phase=phase, since_unix_ms=now.unix_ms, share_percent=None, unclean_starts=strikes)
