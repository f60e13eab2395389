"""The state document: all that a device runs, said as one whole with its own number; single facts are `report`'s."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.manifest import Count, DeviceId, Label, Name, Sha256, Version
from edge_agent.contract.report import Detail


class SnapshotRef(Struct, frozen=True):
    """A snapshot by name: its version and the digest of its manifest."""

    version: Version
    digest: Sha256


class CandidateState(Struct, frozen=True):
    """What is being brought in. version is empty until its manifest is known; phase: a word of docs/lifecycle.md."""

    version: Annotated[str, Meta(max_length=limits.VERSION_CHARS_MAX)]
    digest: Sha256
    phase: Label


class TurnedAway(Struct, frozen=True):
    """A snapshot that the device does not take, and why (a word of docs/reasons.md).

    blocked: it failed here, and is not tried again in this generation. version and digest of one that was refused
    before it could be believed are the offerer's words.
    """

    version: Annotated[str, Meta(max_length=limits.VERSION_CHARS_MAX)]
    digest: Sha256
    reason: Label
    blocked: bool
    detail: Detail = ""


class AssignedState(Struct, frozen=True):
    """The coordinator's wish as the device took it. held: somebody on the device chose otherwise since."""

    digest: Sha256
    generation: Count
    held: bool


class SlotState(Struct, frozen=True):
    """One model slot. serving: requests are answered. reason: why another snapshot serves than the wanted one.

    pinned: somebody on the device wants what is here, and nothing new.
    """

    serving: bool
    status: Label
    active: SnapshotRef | None
    last_good: SnapshotRef | None
    wanted: SnapshotRef | None
    candidate: CandidateState | None
    assigned: AssignedState | None
    reason: Label | None
    declined: TurnedAway | None
    turned_away: Annotated[tuple[TurnedAway, ...], Meta(max_length=limits.TURNED_AWAY_TOLD_MAX)]
    on_disk: Annotated[tuple[SnapshotRef, ...], Meta(max_length=limits.SNAPSHOTS_TOLD_MAX)]
    damaged: Annotated[tuple[Sha256, ...], Meta(max_length=limits.SNAPSHOTS_TOLD_MAX)]
    fallbacks: Count
    pinned: bool = False


class DeviceState(Struct, frozen=True):
    """Everything at once; a later number of the same connection replaces an earlier one."""

    device_id: DeviceId
    connection_id: Label
    number: Count
    at_unix_ms: Count
    agent_version: Label
    epoch: Count
    revision: Count
    storage: Label | None
    models: Annotated[dict[Name, SlotState], Meta(max_length=limits.MODELS_PER_DEVICE_MAX)]
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


def parse_device_state(raw: bytes) -> DeviceState:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, DeviceState, bytes_max=limits.DEVICE_STATE_BYTES_MAX)
