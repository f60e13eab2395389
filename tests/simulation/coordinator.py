"""The coordinator of a simulated fleet: the real plan over what devices told, its rules of revisions, acknowledgements
and refusals, and the invariants of the fleet as a whole. Its database loses nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import edge_agent.runtime.device_state as document
from cloud_sync.coordinator.records import _slot
from cloud_sync.core import plan as planning
from cloud_sync.core.fleet import Device as Planned
from cloud_sync.core.fleet import Fleet, Kind, Rollout, Slot, Strategy, Target
from cloud_sync.limits import OFFLINE_AFTER_S, PLAN_PAUSE_S, PLAN_ROUNDS_MAX
from edge_agent.core.actions import Tell
from edge_agent.runtime.marks import AssignmentMark
from tests.simulation.faults import MODEL, Release

if TYPE_CHECKING:
    from tests.simulation.device import Device
    from tests.simulation.world import World

EPOCH = 1


@dataclass
class Record:
    """A device as it told of itself. committed: its reports, in order."""

    device: Device
    heard_s: float
    number: int = 0
    slot: Slot | None = None
    told_revision: int = 0
    revision: int = 0
    target: Target | None = None
    committed: list[Tell] = field(default_factory=list)

    def planned(self) -> Planned:
        """As planning sees it."""
        return Planned(
            device_id=self.device.name,
            connected=True,
            heard_s=self.heard_s,
            models=frozenset((MODEL,)),
            slots={} if self.slot is None else {MODEL: self.slot},
            epoch=EPOCH if self.revision else 0,
            revision=self.revision,
            told_revision=self.told_revision,
            assigned={} if self.target is None else {MODEL: self.target},
        )


class Coordinator:
    """Hears, plans, assigns, acknowledges."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._planning: asyncio.TimerHandle | None = None
        self.records: dict[str, Record] = {}
        self.rollouts: list[Rollout] = []

    # ---- what a device says

    def hear(self, device: Device) -> None:
        """A heartbeat: the state document and the oldest reports leave the device now."""
        device.said += 1
        state = device.executor.state(MODEL)
        told = document.device_state(
            device.name, "simulated", (state,), number=device.said, at_unix_ms=device.moment().unix_ms,
            routed=lambda _: device.front.routed.digest if device.front.routed else None,
            storage_reason=device.executor.storage_reason, taken=AssignmentMark(*device.desk.taken),
        )  # fmt: skip
        slot, number, revision = _slot(told.models[MODEL]), device.said, told.revision
        device.link.send(lambda: self._told(device, number, slot, revision))
        after, reports = device.disk.batch()
        if reports:
            device.link.send(lambda: self._reported(device, after, reports))

    def _record(self, device: Device) -> Record:
        return self.records.setdefault(device.name, Record(device, self._world.now_s()))

    def _told(self, device: Device, number: int, slot: Slot, revision: int) -> None:
        record = self._record(device)
        record.heard_s = self._world.now_s()
        if number > record.number:
            record.number, record.slot, record.told_revision = number, slot, revision
        self._plan_soon()
        behind = record.slot is None or record.target is None or record.slot.generation < record.target.generation
        if record.target is not None and (behind or record.told_revision < record.revision):
            self._send(record)

    def _reported(self, device: Device, after: int, reports: tuple[Tell, ...]) -> None:
        """Committed are those that follow what is committed; a batch that begins later says that some were lost."""
        record = self._record(device)
        committed = len(record.committed)
        if after <= committed:
            record.committed += reports[committed - after :]
        here = [id(tell) for tell in record.committed[committed:]]
        if here != [id(tell) for tell in device.disk.history[committed : len(record.committed)]]:
            self._world.broken("reports_arrive_once_in_order", f"{device.name}: from number {committed + 1}")
        upto = len(record.committed)
        device.link.send(lambda: self._acknowledged(device, upto))

    def _acknowledged(self, device: Device, upto: int) -> None:
        if device.is_up and not device.disk.hangs and device.disk.refuses is None:
            device.disk.acknowledged = max(device.disk.acknowledged, upto)

    # ---- what operators want

    def wish(self, release: Release, strategy: Strategy, devices: frozenset[str] | None, kind: Kind) -> None:
        """A new rollout, planned at once."""
        number = len(self.rollouts) + 1
        rollout = Rollout(
            f"r{number}", number, MODEL, release.known.version, release.digest, number, number, strategy, kind, devices,
            refused_before=planning.refusals(self._fleet(), MODEL, release.digest),
            policy=self._world.setting.fleet_policy,
        )  # fmt: skip
        self.rollouts.append(rollout)
        whom = "all" if devices is None else ",".join(sorted(devices))
        self._world.tell("fleet", f"{kind.value} {rollout.rollout_id}: {release.known.version} {strategy.value} {whom}")
        self.plan()

    def _fleet(self) -> Fleet:
        return Fleet({name: record.planned() for name, record in self.records.items()}, EPOCH)

    def _plan_soon(self) -> None:
        """All that is told within a moment is planned for at once."""
        if self._planning is None:
            self._planning = asyncio.get_running_loop().call_later(PLAN_PAUSE_S, self.plan)

    def plan(self) -> None:
        """As the planner: rounds until nothing is left to do."""
        if self._planning is not None:
            self._planning.cancel()
            self._planning = None
        for _ in range(PLAN_ROUNDS_MAX):
            actions = planning.plan(self._fleet(), self.rollouts, self._world.now_s())
            if not actions:
                return
            for action in actions:
                if isinstance(action, planning.Assign):
                    self._assign(self.records[action.device_id], action.models[MODEL])
                else:
                    self._halt(action)
        self._world.broken("plan_comes_to_an_end", "so many rounds in a row had something to do")

    def _halt(self, action: planning.HaltRollout) -> None:
        halt = action.halt
        self._world.tell("fleet", f"{action.rollout_id} halted: {halt.device_id} {halt.reason}")
        self.rollouts = [
            replace(one, halted=halt) if one.rollout_id == action.rollout_id else one for one in self.rollouts
        ]

    def _assign(self, record: Record, target: Target) -> None:
        if record.target != target:
            self._judge(record, target)
        record.revision = max(record.revision, record.told_revision) + 1
        record.target = target
        self._world.tell("fleet", f"{record.device.name} is given {target.version}, generation {target.generation}")
        self._send(record)

    def _judge(self, record: Record, target: Target) -> None:
        """Whom a rollout may reach now, by our own books."""
        rollout = next(one for one in self.rollouts if one.generation == target.generation)
        name = record.device.name
        if rollout.digest != target.digest:
            self._world.broken("assigns_what_was_wished", f"{name}: {target.version}")
        if rollout.halted is not None:
            self._world.broken("halted_reaches_nobody", f"{name} is given {target.version} of {rollout.rollout_id}")
        if record.target is not None and target.generation < record.target.generation:
            self._world.broken("assigns_nothing_older", f"{name}: generation {target.generation}")
        if rollout.strategy is not Strategy.ONE:
            return
        for other in self.records.values():
            online = self._world.now_s() - other.heard_s <= OFFLINE_AFTER_S
            newer = any(one.number > rollout.number and one.covers(other.planned()) for one in self.rollouts)
            if other is record or other.target != target or newer or not online:
                continue
            slot = other.slot
            if slot is None or slot.active != target.digest or slot.candidate is not None:
                self._world.broken("one_by_one", f"{name} is given {target.version} while {other.device.name} tries it")

    def _send(self, record: Record) -> None:
        target, revision, device = record.target, record.revision, record.device
        if target is not None:
            device.link.send(lambda: device.desk.take(EPOCH, revision, target))
