"""What a device knows of one model slot, as frozen values; how it changes is decided in `lifecycle`.

Invariants (checked by `ModelState.fault`, on save and on load):
- what serves is among the known snapshots, and is not quarantined in the present generation;
- a digest is known at most once; something is being raised exactly while the status says so;
- requests go to a candidate in trial only beside an active snapshot;
- everything that grows is bounded by `contract.limits`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from edge_agent.contract import limits
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.core.judgement import Watch
from edge_agent.core.rules import Rules, at_least, rules_of


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant: `monotonic_s` for durations (starts anew at a boot), `unix_ms` for records only."""

    monotonic_s: float
    unix_ms: int


class Phase(StrEnum):
    """Where a candidate stands. `NONE` means that there is no candidate."""

    NONE = "none"
    ASSIGNED = "assigned"  # wanted by the coordinator, nothing offered yet
    FETCHING = "fetching"  # metadata verified, chunks arriving
    RECEIVED = "received"  # every chunk is here
    VERIFIED = "verified"  # evidence and every byte verified on this disk
    PROVEN = "proven"  # loaded here, golden vectors agree
    TRIAL = "trial"  # shadow, then a share of requests
    PROBATION = "probation"  # all requests, watched


class Status(StrEnum):
    """Where serving stands."""

    EMPTY = "empty"  # no snapshot has ever been here
    RAISING = "raising"  # nothing serves; a rung of the ladder is being brought up
    UP = "up"  # the active snapshot serves
    CHANGING = "changing"  # the active snapshot serves while another one is brought up to take its place
    DOWN = "down"  # the ladder is exhausted; tried again at intervals


@dataclass(frozen=True, slots=True)
class Known:
    """A snapshot whose bytes this device holds. confirmed_unix_ms orders confirmations; 0 = never confirmed.

    unclean_starts: of the device while this one served, since it last served steadily.
    """

    digest: str
    version: str
    release: int
    interface: str
    factory: bool = False
    confirmed_unix_ms: int = 0
    damaged: bool = False
    unclean_starts: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether it may serve unwatched: it was confirmed here, or came with the device."""
        return self.factory or self.confirmed_unix_ms > 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """The snapshot that is being brought in. previous: what served before it.

    share_percent: of live requests during a trial, 0 = copies alone (shadow), None = no trial (yet, or any more).
    unclean_starts: of the device since this candidate was first loaded.
    """

    snapshot: Known
    phase: Phase
    since_unix_ms: int
    previous: str | None = None
    share_percent: int | None = None
    unclean_starts: int = 0

    @property
    def digest(self) -> str:
        """Digest of the snapshot's manifest."""
        return self.snapshot.digest


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A snapshot that failed here, in this generation of the operator's intent."""

    digest: str
    version: str
    generation: int
    reason: Reason
    detail: str
    at_unix_ms: int


@dataclass(frozen=True, slots=True)
class RefusedOffer:
    """A snapshot that was not taken, which blocks nothing. Refused before it was believed: digest and version are the
    offerer's words; declined: they are verified.
    """

    digest: str
    version: str
    reason: Reason
    detail: str
    at_unix_ms: int


@dataclass(frozen=True, slots=True)
class Crash:
    """A worker that ended by its own fault; fingerprint of the request that it had ('' = none)."""

    digest: str
    fingerprint: str
    at_s: float


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A loaded and proven worker process."""

    worker_id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What agent.toml says about this model slot. retry_s: the first pause before what failed is tried again."""

    policy: Policy = field(default_factory=Policy)
    spare: bool = True
    retry_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Assigned:
    """The coordinator's wish for this slot, as it was taken last."""

    digest: str
    version: str
    epoch: int
    generation: int
    policy: Policy = field(default_factory=Policy)

    @property
    def order(self) -> tuple[int, int]:
        """A later wish is greater: epochs are the publisher's, generations an operator's intent within one."""
        return self.epoch, self.generation


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model slot. Volatile facts (see `persistent_part`) are rebuilt at every boot.

    held: somebody on the device chose otherwise than the coordinator; ends with a later generation. pinned: and wants
    nothing new. minimum: the policy below which the publisher lets nobody go. climbs: ways back of the present
    generation. clean_stop: the runtime ended because it was asked to.
    """

    model: str
    settings: Settings = field(default_factory=Settings)
    status: Status = Status.EMPTY
    active: str | None = None
    active_since_unix_ms: int = 0
    raising: str | None = None
    wanted: str | None = None
    fallback_reason: Reason | None = None
    generation: int = 0
    fallbacks: int = 0
    climbs: int = 0
    known: tuple[Known, ...] = ()
    candidate: Candidate | None = None
    assigned: Assigned | None = None
    minimum: Policy = field(default_factory=Policy)
    held: bool = False
    pinned: bool = False
    clean_stop: bool = False
    quarantine: tuple[Quarantine, ...] = ()
    refused_offers: tuple[RefusedOffer, ...] = ()
    declined: RefusedOffer | None = None  # the last candidate that could not be taken now
    refused_rungs: tuple[str, ...] = ()
    live: tuple[LiveWorker, ...] = ()
    crashes: tuple[Crash, ...] = ()
    not_now: Reason | None = None  # why the device takes no update at present
    watch: Watch | None = None
    stage_ends_s: float | None = None
    retry_at_s: float | None = None
    retries: int = 0  # in a row, of an exhausted ladder
    steady_at_s: float | None = None

    @property
    def phase(self) -> Phase:
        """The candidate's phase, `NONE` without a candidate."""
        return self.candidate.phase if self.candidate else Phase.NONE

    @property
    def candidate_is_active(self) -> bool:
        """Whether all requests go to the candidate already (it is proven, or in probation)."""
        return self.candidate is not None and self.candidate.digest == self.active

    @property
    def in_trial(self) -> bool:
        """Whether the candidate is compared with the active snapshot, or about to be."""
        return self.candidate is not None and self.candidate.share_percent is not None

    @property
    def rules(self) -> Rules:
        """What holds for an update: the assignment's policy over agent.toml's, while nobody on the device chose
        otherwise, and never below the publisher's minimum.
        """
        stated = [self.settings.policy]
        if self.assigned is not None and not self.held:
            stated.append(self.assigned.policy)
        return at_least(rules_of(*stated), self.minimum)

    def find(self, digest: str | None) -> Known | None:
        """The known snapshot with this digest."""
        return next((known for known in self.known if known.digest == digest), None)

    def find_version(self, version: str) -> Known | None:
        """The known snapshot with this version (the newest release, should two digests share it)."""
        same = [known for known in self.known if known.version == version]
        return max(same, key=lambda known: known.release, default=None)

    def live_count(self, digest: str | None) -> int:
        """How many loaded workers of this digest there are."""
        return sum(1 for worker in self.live if worker.digest == digest)

    def is_quarantined(self, digest: str) -> Quarantine | None:
        """The record of this digest in the present generation."""
        return next((q for q in self.quarantine if q.digest == digest and q.generation == self.generation), None)

    def wakes_at_s(self) -> float | None:
        """Monotonic seconds at which the core wants a `Woke` event; None = not by itself."""
        times = (self.stage_ends_s, self.retry_at_s, self.steady_at_s)
        return min((at_s for at_s in times if at_s is not None), default=None)

    def fault(self) -> str | None:
        """The first broken invariant, or None."""
        digests = [known.digest for known in self.known]
        if len(set(digests)) != len(digests):
            return "a digest is known twice"
        if self.active is not None and self.active not in digests:
            return "what serves is not a known snapshot"
        if (self.active is None) != (self.status in (Status.EMPTY, Status.RAISING, Status.DOWN)):
            return f"status {self.status} does not fit active={self.active}"
        if (self.raising is not None) != (self.status in (Status.RAISING, Status.CHANGING)):
            return f"status {self.status} does not fit raising={self.raising}"
        if self.phase is Phase.TRIAL and (not self.in_trial or self.candidate_is_active):
            return "a trial is no comparison with something else"
        if self.in_trial and self.phase not in (Phase.PROVEN, Phase.TRIAL):
            return f"phase {self.phase} does not fit a share of requests"
        if len(self.quarantine) > limits.QUARANTINE_RECORDS_MAX:
            return "more quarantine records than the bound"
        return None


def with_known(state: ModelState, known: Known) -> ModelState:
    """The state with this snapshot known, in place of an older record of the same digest."""
    others = tuple(k for k in state.known if k.digest != known.digest)
    return replace(state, known=(*others, known))


def with_damage(state: ModelState, digest: str, *, damaged: bool) -> ModelState:
    """The state with this snapshot's damage flag set; unchanged if the digest is not known."""
    known = state.find(digest)
    return with_known(state, replace(known, damaged=damaged)) if known else state


def persistent_part(state: ModelState) -> ModelState:
    """The state without the facts that every boot finds out anew: what is worth a write to disk."""
    return replace(
        state,
        live=(),
        crashes=(),
        refused_rungs=(),
        not_now=None,
        watch=None,
        stage_ends_s=None,
        retry_at_s=None,
        retries=0,
        steady_at_s=None,
    )
