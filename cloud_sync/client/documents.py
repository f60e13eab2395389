"""What the coordinator answers, as frozen types for whoever shows it; fields that are not known here are ignored.

How answers are asked for is api.py's matter.
"""

from __future__ import annotations

from msgspec import Struct


class Snapshot(Struct, frozen=True):
    """A snapshot that the coordinator has, verified. published_unix_ms: when it came."""

    name: str
    version: str
    release: int
    digest: str
    bytes: int
    published_unix_ms: int


class Snapshots(Struct, frozen=True):
    """All of them. expires: when devices stop taking new content (a date in UTC, or null)."""

    snapshots: tuple[Snapshot, ...]
    expires: str | int | None = None


class Ref(Struct, frozen=True):
    """A snapshot on a device. phase, generation: of a candidate, of an assignment."""

    version: str
    digest: str
    phase: str = ""
    generation: int = 0


class TurnedAway(Struct, frozen=True):
    """A snapshot that a device does not take, and why. blocked: it failed there and is not tried again."""

    version: str
    digest: str
    reason: str
    detail: str = ""
    blocked: bool = False


class Slot(Struct, frozen=True):
    """One model on one device. held: somebody there chose otherwise than assigned. pinned: and wants nothing new.
    damaged: snapshots with damaged bytes.
    """

    serving: bool
    active: Ref | None = None
    wanted: Ref | None = None
    candidate: Ref | None = None
    assigned: Ref | None = None
    held: bool = False
    pinned: bool = False
    reason: str | None = None
    declined: TurnedAway | None = None
    turned_away: tuple[TurnedAway, ...] = ()
    damaged: int = 0
    fallbacks: int = 0


class Report(Struct, frozen=True):
    """A fact that a device stated, by its own clock."""

    number: int
    at_unix_ms: int
    kind: str
    model: str | None = None
    version: str | None = None
    phase: str | None = None
    reason: str | None = None
    detail: str = ""


class Device(Struct, frozen=True):
    """A device as it last told. last_heard_unix_ms: by the coordinator's clock, null or 0 = never."""

    device_id: str
    device_type: str
    agent_version: str
    online: bool
    last_heard_unix_ms: int | None
    models: dict[str, Slot]
    epoch: int = 0
    revision: int = 0
    lost_reports: int = 0
    storage: str | None = None
    reports: tuple[Report, ...] = ()


class Devices(Struct, frozen=True):
    """Every device that ever said hello."""

    devices: tuple[Device, ...]


class HaltedBy(Struct, frozen=True):
    """The device that stopped a rollout, and its reason."""

    device_id: str
    reason: str


class Rollout(Struct, frozen=True):
    """A wish for a set of devices, and how far each has come."""

    id: int | str
    model: str
    version: str
    digest: str
    strategy: str
    kind: str
    created_unix_ms: int
    state: str
    devices: dict[str, str]
    generation: int = 0
    halted_by: HaltedBy | None = None


class OneRollout(Struct, frozen=True):
    """The answer about a single one."""

    rollout: Rollout


class Rollouts(Struct, frozen=True):
    """All of them, as the coordinator orders them."""

    rollouts: tuple[Rollout, ...]


class DeviceToken(Struct, frozen=True):
    """GET /v1/devices/ID/token."""

    device_id: str
    token: str


class Missing(Struct, frozen=True):
    """Chunks that the coordinator does not have, by their SHA-256."""

    missing: tuple[str, ...]


class Taken(Struct, frozen=True):
    """How many snapshots are published at the coordinator after an upload."""

    snapshots: int


class Planning(Struct, frozen=True):
    """stopped: why the coordinator plans nothing, null when it plans."""

    stopped: str | None


class Broker(Struct, frozen=True):
    """Whether the coordinator is connected to it, and since when."""

    connected: bool
    since_unix_ms: int | None = None


class Health(Struct, frozen=True):
    """How the coordinator itself is."""

    status: str
    broker: Broker
    planning: Planning


class Resumed(Struct, frozen=True):
    """The answer to `resume`."""

    planning: Planning
