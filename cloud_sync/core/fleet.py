"""What planning knows: devices as they tell of themselves, rollouts as operators wished them; no decisions here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cloud_sync import limits
from edge_agent.contract.policy import Policy


class Strategy(StrEnum):
    """How a rollout reaches its devices."""

    ALL = "all"  # all at once
    ONE = "one"  # one after the other, in the order of their ids


class Kind(StrEnum):
    """Why an operator wished it; both are planned alike."""

    ROLLOUT = "rollout"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Target:
    """What one model slot should run, as an assignment says it, and what it has to show first."""

    digest: str
    version: str
    generation: int
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Turned:
    """A snapshot that the device does not take. blocked: it failed there in the present generation."""

    digest: str
    reason: str
    blocked: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """One model on a device, as last told. generation: of the assignment that the slot has taken, 0 = none.

    active: digest of what serves, None = nothing. candidate: digest of what is being brought in. held: somebody on the
    device chose otherwise since.
    """

    active: str | None = None
    candidate: str | None = None
    phase: str = ""
    generation: int = 0
    held: bool = False
    turned_away: tuple[Turned, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """One device. connected: it said so, and no will came. heard_s: when it last said anything, seconds.

    epoch, revision: of the assignment that it was given last, 0 = none. told_revision: the highest that it said to
    have taken in the present epoch.
    """

    device_id: str
    connected: bool
    heard_s: float
    models: frozenset[str]
    slots: Mapping[str, Slot] = field(default_factory=dict)
    epoch: int = 0
    revision: int = 0
    told_revision: int = 0
    assigned: Mapping[str, Target] = field(default_factory=dict)

    def online(self, now_s: float) -> bool:
        """Whether it can be expected to act: connected, and heard of lately."""
        return self.connected and now_s - self.heard_s <= limits.OFFLINE_AFTER_S


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a rollout goes no further: this device did not take the snapshot, for this reason."""

    device_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """An operator's wish. number: its place in time. devices: None = every device that runs the model, now or later.

    refused_before: (device, reason) of those that had refused the same snapshot when it was wished again: devices tell
    of a refusal once, so that one says nothing about this rollout.
    """

    rollout_id: str
    number: int
    model: str
    version: str
    digest: str
    generation: int
    created_unix_ms: int
    strategy: Strategy = Strategy.ALL
    kind: Kind = Kind.ROLLOUT
    devices: frozenset[str] | None = None
    halted: Halt | None = None
    refused_before: frozenset[tuple[str, str]] = frozenset()
    policy: Policy = field(default_factory=Policy)

    def target(self) -> Target:
        """What it assigns."""
        return Target(self.digest, self.version, self.generation, self.policy)

    def covers(self, device: Device) -> bool:
        """Whether it speaks of this device."""
        return self.model in device.models and (self.devices is None or device.device_id in self.devices)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All devices, by id. epoch: of this coordinator, as the publisher states it."""

    devices: Mapping[str, Device]
    epoch: int
