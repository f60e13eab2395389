"""What a boot makes of the saved state, what the store still holds and the workers that are still alive.

A boot is an ordinary event; the table below is total over the candidate's saved phase. Unknown or impossible
combinations end in the fallback ladder: the device serves the best snapshot that verifies.
"""

from __future__ import annotations

from dataclasses import replace

from edge_agent.core import events as ev
from edge_agent.core.ladder import next_rung
from edge_agent.core.serving import serve
from edge_agent.core.state import Candidate, Known, ModelState, Moment, Phase, Status

# Saved phase -> the phase in which the candidate goes on (NONE: it is dropped and has to be offered again).
RESUME_PHASE: dict[Phase, Phase] = {
    Phase.NONE: Phase.NONE,
    Phase.ASSIGNED: Phase.ASSIGNED,
    Phase.FETCHING: Phase.FETCHING,
    Phase.RECEIVED: Phase.RECEIVED,
    Phase.VERIFIED: Phase.RECEIVED,  # the disk is not believed across a boot: verified again
    Phase.PROVEN: Phase.RECEIVED,  # the front may not have switched: proven again
    Phase.TRIAL: Phase.RECEIVED,
    Phase.PROBATION: Phase.PROBATION,  # it served: it serves again, and its time begins anew
}


def boot(state: ModelState, event: ev.Booted, now: Moment) -> ModelState:
    """The state in which the device goes on after a start of the runtime, for whatever cause it started."""
    known = tuple(_remembered(state, found) for found in event.known)
    digests = {found.digest for found in known}
    candidate = _resumed(state.candidate, digests, now)
    probation = candidate is not None and candidate.phase is Phase.PROBATION
    fresh = replace(
        state,
        settings=event.settings,
        status=Status.EMPTY,
        active=None,
        raising=None,
        known=known,
        candidate=candidate,
        wanted=state.wanted if state.wanted in digests else None,
        live=tuple(worker for worker in event.live if worker.digest in digests),
        refused_rungs=(),
        crashes=(),
        probation_ends_s=None,
        retry_at_s=None,
    )
    first = candidate.digest if probation and candidate else None
    return _choose(fresh, state.active, first, now)


def _choose(state: ModelState, served_before: str | None, first: str | None, now: Moment) -> ModelState:
    """Serve from a living worker if there is one; else bring up the best rung."""
    if served_before is not None and state.live_count(served_before):
        up = replace(state, status=Status.UP, active=served_before, active_since_unix_ms=state.active_since_unix_ms)
        if first is not None and first == served_before:
            return replace(up, probation_ends_s=now.monotonic_s + state.in_force.probation_s)
        return replace(up, wanted=up.wanted or served_before, retry_at_s=now.monotonic_s)
    target = first or next_rung(state)
    if target is None:
        return replace(state, status=Status.DOWN if state.known else Status.EMPTY, fallback_reason=None)
    if first is None and state.live_count(target):
        return serve(state, target, now)
    return replace(state, status=Status.RAISING, raising=target)


def _remembered(state: ModelState, found: Known) -> Known:
    """What the store found, with the confirmation that the saved state remembers."""
    saved = state.find(found.digest)
    return replace(found, confirmed_unix_ms=saved.confirmed_unix_ms) if saved else found


def _resumed(candidate: Candidate | None, digests: set[str], now: Moment) -> Candidate | None:
    if candidate is None:
        return None
    phase = RESUME_PHASE[candidate.phase]
    if phase is Phase.FETCHING and candidate.digest in digests:
        phase = Phase.RECEIVED  # it became visible just before the end
    if phase not in (Phase.ASSIGNED, Phase.FETCHING) and candidate.digest not in digests:
        return None
    return replace(candidate, phase=phase, since_unix_ms=now.unix_ms)
