"""How far a rollout has come, per device and as a whole; pure. What happens next is decided in `plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cloud_sync.core.fleet import Device, Fleet, Halt, Rollout, Strategy
from cloud_sync.core.plan import confirmed, failure, governed, reached, standing


class Stage(StrEnum):
    """Where one device is."""

    PENDING = "pending"  # not its turn yet
    ASSIGNED = "assigned"
    FETCHING = "fetching"
    PROVING = "proving"
    PROBATION = "probation"
    DONE = "done"
    FAILED = "failed"
    OFFLINE = "offline"


class Whole(StrEnum):
    """Where the rollout is."""

    RUNNING = "running"
    DONE = "done"
    HALTED = "halted"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Progress:
    """devices: by id; those for which a newer rollout counts are not among them."""

    state: Whole
    halted: Halt | None
    devices: Mapping[str, Stage]


_STAGE_OF_PHASE = {
    "assigned": Stage.ASSIGNED,
    "fetching": Stage.FETCHING,
    "received": Stage.FETCHING,
    "verified": Stage.PROVING,
    "proven": Stage.PROVING,
    "trial": Stage.PROBATION,
    "probation": Stage.PROBATION,
}


def progress(fleet: Fleet, rollouts: Iterable[Rollout], now_s: float) -> Mapping[str, Progress]:
    """The progress of every rollout, by its id."""
    rollouts = tuple(rollouts)
    told = {one.rollout_id: Progress(Whole.SUPERSEDED, one.halted, {}) for one in rollouts}
    for rollout, members in governed(fleet, standing(rollouts)[::-1]):
        stages = {device.device_id: stage(rollout, device, now_s) for device in members}
        told[rollout.rollout_id] = Progress(*_whole(rollout, members, stages), stages)
    return told


def stage(rollout: Rollout, device: Device, now_s: float) -> Stage:
    """Where this device is in the rollout, as far as it told."""
    given = reached(rollout, device)
    if given and confirmed(rollout, device):
        return Stage.DONE
    if given and failure(rollout, device) is not None:
        return Stage.FAILED
    if not device.online(now_s):
        return Stage.OFFLINE
    if not given:
        return Stage.PENDING
    slot = device.slots.get(rollout.model)
    if slot is not None and slot.candidate == rollout.digest:
        return _STAGE_OF_PHASE.get(slot.phase, Stage.PROVING)
    return Stage.ASSIGNED


def _whole(rollout: Rollout, members: Iterable[Device], stages: Mapping[str, Stage]) -> tuple[Whole, Halt | None]:
    """A device that is offline keeps a rollout from being done only while nobody else is; one more that appears later
    makes it run again. What reaches all devices at once is called halted when some failed and nothing else can come.
    """
    if rollout.halted is not None:
        return Whole.HALTED, rollout.halted
    present = {one for one in stages.values() if one is not Stage.OFFLINE}
    if present and present <= {Stage.DONE}:
        return Whole.DONE, None
    if rollout.strategy is Strategy.ALL and Stage.FAILED in present and present <= {Stage.DONE, Stage.FAILED}:
        failures = (failure(rollout, device) for device in members if stages[device.device_id] is Stage.FAILED)
        return Whole.HALTED, next(failures, None)
    return Whole.RUNNING, None
