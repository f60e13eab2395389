"""States and events of every kind, to be put to the lifecycle's tables. What must come of them is the tests'; the
diagram in docs/lifecycle.md is drawn from them as well.
"""

from __future__ import annotations

from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import Tally
from edge_agent.core import events as ev
from edge_agent.core.judgement import Watch
from edge_agent.core.serving import GOLDEN_VECTOR
from edge_agent.core.state import Candidate, Crash, Known, LiveWorker, ModelState, Moment, Phase, Settings, Status

NOW = Moment(1000.0, 1_000_000)
A = Known("a" * 64, "1.0", 1, "i", confirmed_unix_ms=5)
C = Known("c" * 64, "2.0", 2, "i")
F = Known("f" * 64, "0.9", 1, "i", factory=True)


def state_in(status: Status, phase: Phase) -> ModelState:
    """A consistent state with this status and phase."""
    serving = status in (Status.UP, Status.CHANGING)
    raising = status in (Status.RAISING, Status.CHANGING)
    percent = 10 if phase is Phase.TRIAL else None
    candidate = None if phase is Phase.NONE else Candidate(C, phase, 1, previous=A.digest, share_percent=percent)
    return ModelState(
        "m",
        status=status,
        active=A.digest if serving else None,
        raising=F.digest if raising else None,
        wanted=A.digest,
        known=(A, F, C),
        candidate=candidate,
        live=(LiveWorker("w", A.digest),) if serving else (),
    )


def events_about(digest: str) -> list[ev.Event]:
    """One event of every type, about this digest where it has one."""
    known = {A.digest: A, C.digest: C, F.digest: F}[digest]
    return [
        ev.Booted("m", Settings(), (A, C, F), (LiveWorker("w", A.digest),)),
        ev.OfferBegun("m", known, complete=False, retry=False),
        ev.OfferCompleted("m", digest),
        ev.OfferAbandoned("m", digest, Reason.OFFER_ABANDONED),
        ev.OfferRefused("m", digest, "9", Reason.SIGNATURE, "x"),
        ev.VerifyPassed("m", digest),
        ev.VerifyFailed("m", digest, Reason.DAMAGE, "x"),
        ev.WorkerUp("m", "w2", digest),
        ev.BringUpFailed("m", digest, Reason.PROOF, "x"),
        ev.WorkerDied("m", "w", digest),
        ev.WorkerCrashed("m", digest, "r1"),
        ev.Routed("m", digest),
        ev.DamageFound("m", digest, 1),
        ev.Repaired("m", digest),
        ev.RollbackAsked("m", None),
        ev.Forgotten("m", digest),
        ev.Woke("m"),
        ev.AssignmentTaken("m", digest, "2.0", 1, 1),
        ev.TrialRouted("m", digest, 0),
        ev.Observed("m", digest, Tally(answers=5)),
        ev.PinAsked("m", None),
        ev.UnpinAsked("m"),
        ev.MinimumStated("m", Policy(probation_s=9.0)),
        ev.ConditionsSeen("m", Reason.LOW_BATTERY),
        ev.Stopping("m"),
    ]


TRIAL = Policy(
    shadow_s=60.0, shadow_requests_min=5, share_percents=(10, 50), share_requests_min=5, probation_requests_min=5
)
GOOD = Tally(answers=5, latencies=(5,))
FAILING = Tally(answers=5, errors=5, latencies=(5,))


def on_the_way(phase: Phase, share_percent: int | None = None) -> ModelState:
    """As `state_in`, while A serves (in probation: C), workers live and the time of the stage is over.

    share_percent: of a candidate that is in its trial, or proven and on its way to it.
    """
    watched = phase in (Phase.TRIAL, Phase.PROBATION)
    takes_over = phase is Phase.PROBATION or (phase is Phase.PROVEN and share_percent is None)
    loaded = phase in (Phase.PROVEN, Phase.TRIAL, Phase.PROBATION)
    here = phase not in (Phase.NONE, Phase.ASSIGNED, Phase.FETCHING)
    return ModelState(
        "m",
        settings=Settings(TRIAL),
        status=Status.UP,
        active=C.digest if takes_over else A.digest,
        wanted=A.digest,
        known=(A, F, C) if here else (A, F),
        candidate=None if phase is Phase.NONE else Candidate(C, phase, 1, A.digest, share_percent),
        live=(LiveWorker("a", A.digest), *((LiveWorker("c", C.digest),) if loaded else ())),
        crashes=(Crash(C.digest, "r1", NOW.monotonic_s), Crash(C.digest, "r2", NOW.monotonic_s)),
        watch=Watch(0.0) if watched else None,
        stage_ends_s=0.0 if watched else None,
    )


def events_on_the_way(share_percent: int | None) -> dict[str, ev.Event]:
    """What may become of a candidate, by a caption."""
    other = Known("d" * 64, "3.0", 3, "i")
    return {
        "AssignmentTaken": ev.AssignmentTaken("m", C.digest, C.version, 1, 1),
        "AssignmentTaken (another)": ev.AssignmentTaken("m", other.digest, other.version, 1, 1),
        "OfferBegun": ev.OfferBegun("m", C, complete=False, retry=False),
        "OfferBegun (all is here)": ev.OfferBegun("m", C, complete=True, retry=False),
        "OfferBegun (another)": ev.OfferBegun("m", other, complete=False, retry=False),
        "OfferCompleted": ev.OfferCompleted("m", C.digest),
        "OfferAbandoned": ev.OfferAbandoned("m", C.digest, Reason.OFFER_ABANDONED),
        "VerifyPassed": ev.VerifyPassed("m", C.digest),
        "VerifyFailed": ev.VerifyFailed("m", C.digest, Reason.SIGNATURE, "x"),
        "WorkerUp": ev.WorkerUp("m", "c2", C.digest),
        "BringUpFailed": ev.BringUpFailed("m", C.digest, Reason.PROOF, "x"),
        "BringUpFailed (engine missing)": ev.BringUpFailed("m", C.digest, Reason.ENGINE_MISSING, "x"),
        "WorkerCrashed (a loop)": ev.WorkerCrashed("m", C.digest, "r3"),
        "WorkerCrashed (golden vector)": ev.WorkerCrashed("m", C.digest, GOLDEN_VECTOR),
        "Routed": ev.Routed("m", C.digest),
        "TrialRouted": ev.TrialRouted("m", C.digest, share_percent or 0),
        "Observed (enough)": ev.Observed("m", C.digest, GOOD),
        "Observed (a fault)": ev.Observed("m", C.digest, FAILING),
        "Woke (too late)": ev.Woke("m"),
        "RollbackAsked": ev.RollbackAsked("m", None),
        "PinAsked": ev.PinAsked("m", "1.0"),
    }
