"""Facts that happen to one model slot, as frozen values; what follows from them is decided in `lifecycle`.

`safety` marks facts whose consequences are carried out even when they cannot be persisted: all that has happened on the
device already, and the operator's way back. What is only asked for (an offer) is refused then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import Tally
from edge_agent.core.state import Known, LiveWorker, Settings


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `model` is the slot."""

    model: str
    safety: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Booted(Event):
    """The runtime started: the snapshots that verify in the store, and the workers found alive.

    Whether its predecessor stopped cleanly the saved state says (`Stopping`).
    """

    settings: Settings
    known: tuple[Known, ...]
    live: tuple[LiveWorker, ...]
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class OfferBegun(Event):
    """Somebody offers a snapshot whose signed metadata and manifest the runtime has verified.

    complete: every chunk is here already. retry: the operator wants a quarantined snapshot tried again.
    """

    snapshot: Known
    complete: bool
    retry: bool


@dataclass(frozen=True, slots=True)
class OfferCompleted(Event):
    """Every chunk of the offered snapshot is here and it became visible in the store."""

    digest: str


@dataclass(frozen=True, slots=True)
class OfferAbandoned(Event):
    """The offer ended before it was complete."""

    digest: str
    reason: Reason
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class OfferRefused(Event):
    """An offer was turned away before its manifest could be believed; digest and version are the offerer's words."""

    digest: str
    version: str
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyPassed(Event):
    """Evidence and all bytes of the candidate verified on this disk."""

    digest: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class VerifyFailed(Event):
    """Evidence or bytes of the candidate did not verify."""

    digest: str
    reason: Reason
    detail: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class WorkerUp(Event):
    """A worker has loaded the snapshot from verified bytes and reproduced its golden vectors."""

    worker_id: str
    digest: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class BringUpFailed(Event):
    """No worker could be brought up with this snapshot (verification, load or proof)."""

    digest: str
    reason: Reason
    detail: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class WorkerDied(Event):
    """A loaded worker is gone, for whatever cause: it died, or was retired because nobody wished for it any more."""

    worker_id: str
    digest: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class WorkerCrashed(Event):
    """A death turned out to be the worker's own fault (signal of the engine, hang); '' = no request at the time."""

    digest: str
    fingerprint: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Routed(Event):
    """Requests go to this snapshot now: the front has said so."""

    digest: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class TrialRouted(Event):
    """The front sends copies (percent 0) or so many percent of the live requests to this candidate."""

    digest: str
    percent: int
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Observed(Event):
    """What was seen of this snapshot's answers since the last such event."""

    digest: str
    tally: Tally
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class DamageFound(Event):
    """Stored bytes of a known snapshot are not what was written."""

    digest: str
    chunks: int
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Repaired(Event):
    """Every chunk of a damaged snapshot is right again."""

    digest: str
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class RollbackAsked(Event):
    """The operator on the device wants an older snapshot; version None = the last good one.

    A matter of safety: a bad release is left also when the disk cannot be written.
    """

    version: str | None
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class PinAsked(Event):
    """The operator on the device wants this version (None: what serves now) and nothing new."""

    version: str | None
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class UnpinAsked(Event):
    """The operator on the device takes a pin, and any other choice of the device's own, back."""

    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MinimumStated(Event):
    """Verified metadata of the publisher states this minimum policy for the model."""

    minimum: Policy
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ConditionsSeen(Event):
    """Whether the device can take an update now (None), or why not."""

    not_now: Reason | None
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Forgotten(Event):
    """Retention removed this snapshot from the store."""

    digest: str


@dataclass(frozen=True, slots=True)
class Woke(Event):
    """The time that `wakes_at_s` asked for has come."""

    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class AssignmentTaken(Event):
    """The coordinator's signed wish for this slot, of this epoch and generation, with the policy for it.

    A matter of safety: what is on the disk already is gone back to also when the disk cannot be written.
    """

    digest: str
    version: str
    epoch: int
    generation: int
    policy: Policy = field(default_factory=Policy)
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """The runtime was asked to end, and ends."""

    safety: ClassVar[bool] = True


EVENT_TYPES: tuple[type[Event], ...] = (
    Booted, OfferBegun, OfferCompleted, OfferAbandoned, OfferRefused, VerifyPassed, VerifyFailed, WorkerUp,
    BringUpFailed, WorkerDied, WorkerCrashed, Routed, TrialRouted, Observed, DamageFound, Repaired, RollbackAsked,
    PinAsked, UnpinAsked, MinimumStated, ConditionsSeen, Forgotten, Woke, AssignmentTaken, Stopping,
)  # fmt: skip
