"""All that the coordinator knows, in memory, as it is in its database; who changes what is told in the files beside."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy import Connection

from cloud_sync import limits
from cloud_sync.coordinator.records import NOTHING_ASSIGNED, Record
from cloud_sync.core.fleet import Fleet, Rollout
from cloud_sync.repository.catalog import EMPTY, Catalog
from cloud_sync.signing import Signer
from cloud_sync.store.database import Database
from cloud_sync.store.devices import DeviceRow, all_assignments, all_devices, all_entitlements, write_device
from cloud_sync.store.rollouts import PLANNING_STOPPED, RESUMES, all_generations, all_rollouts, remember, remembered
from cloud_sync.store.snapshots import ServedPart, all_snapshots, log_parts
from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.contract.reasons import Reason

log = structlog.get_logger()


def now_unix_ms() -> int:
    """Wall time, for people and rows."""
    return time.time_ns() // 1_000_000


@dataclass
class Memory:
    """Used on the event loop alone. restored: why planning was stopped, None = it was not. resumes: how often an
    operator went on. ahead: devices that told of more than is here, since then. excused: those of them, in the life of
    this process, in spite of whom an operator went on. dirty: devices whose rows have to be written.
    broker_since_unix_ms: of the present connection.
    """

    database: Database
    signer: Signer
    records: dict[str, Record] = field(default_factory=dict)
    rollouts: list[Rollout] = field(default_factory=list)
    generations: dict[str, int] = field(default_factory=dict)
    known: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    catalog: Catalog = EMPTY
    restored: str | None = None
    resumes: int = 0
    ahead: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    dirty: set[str] = field(default_factory=set)
    parts: list[ServedPart] = field(default_factory=list)
    broker_since_unix_ms: int | None = None
    _disconnected_s: float | None = None

    async def load(self) -> None:
        """Read everything back. Devices that were connected count as heard of just now: silence is measured anew."""

        def read(connection: Connection) -> None:
            entitled, assigned = all_entitlements(connection), all_assignments(connection)
            for row, lost in all_devices(connection):
                record = Record.restored(row, time.monotonic(), lost)
                record.assigned = assigned.get(row.device_id, NOTHING_ASSIGNED)
                record.entitled = entitled.get(row.device_id, set())
                self.records[row.device_id] = record
            self.rollouts = all_rollouts(connection)
            self.generations = all_generations(connection)
            self.known = all_snapshots(connection)
            kept = remembered(connection)
            self.restored, self.resumes = kept.get(PLANNING_STOPPED), int(kept.get(RESUMES, "0"))

        await self.database.run(read)
        self._disconnected_s = time.monotonic()

    # ---- planning or not

    @property
    def epoch(self) -> int:
        """Of this coordinator, as the publisher states it; 0 while it is not named."""
        named = self.catalog.coordinator
        return named.epoch if named is not None and named.public_key == self.signer.public_key else 0

    @property
    def replaced(self) -> bool:
        """Whether the publisher names another coordinator: devices hear nothing more of this one, so that two that run
        at the same time do not contradict each other.
        """
        named = self.catalog.coordinator
        return named is not None and named.public_key != self.signer.public_key

    def stopped(self) -> Unavailable | None:
        """Why nothing is planned; None when everything is."""
        named = self.catalog.coordinator
        if named is None or named.public_key != self.signer.public_key:
            who = "names another coordinator" if named else "names no coordinator"
            return Unavailable(
                f"the publisher's repository {who}: devices would not believe this one",
                reason=Reason.NOT_AUTHORIZED,
                next_step="Run `fleet coordinator authorize coordinator.pub`, then `fleet snapshot publish --all`",
            )
        if self.restored is not None:
            return Unavailable(
                f"planning is stopped, this database is older than what devices have seen: {self.restored}",
                reason=Reason.PLANNING_STOPPED,
            )
        return None

    async def stop(self, device_id: str, why: str) -> None:
        """A device is ahead of the database: remember it for good. The first one's words stay.

        A database is restored while no coordinator runs on it: who is ahead again after an operator went on lies, and
        one device must not keep the whole fleet from being planned.
        """
        if device_id in self.excused:
            log.warning("device_not_believed", device=device_id, why=why)
            return
        self.ahead.add(device_id)
        if self.restored is not None:
            return
        self.restored = f"device {device_id}: {why}"
        log.error("planning_stopped", device=device_id, why=why, next_step=Reason.PLANNING_STOPPED.next_step)
        await self.database.run(lambda connection: remember(connection, PLANNING_STOPPED, f"device {device_id}: {why}"))

    # ---- devices

    def now_s(self) -> float:
        """The clock by which silence is measured: it stands still while we cannot hear anybody."""
        return time.monotonic() if self._disconnected_s is None else self._disconnected_s

    def line_is_up(self) -> None:
        """Connected to the broker: whoever was connected gets the full time to say something."""
        self._disconnected_s = None
        self.broker_since_unix_ms = now_unix_ms()
        for record in self.records.values():
            record.heard_s = time.monotonic()

    def line_is_down(self) -> None:
        """Not connected any more."""
        if self._disconnected_s is None:
            self._disconnected_s = time.monotonic()
        self.broker_since_unix_ms = None

    def fleet(self) -> Fleet:
        """As planning sees it."""
        return Fleet({name: record.device(self.epoch) for name, record in self.records.items()}, self.epoch)

    def record(self, device_id: str) -> Record | None:
        """The record of a device, made if it is new; None when there are too many."""
        record = self.records.get(device_id)
        if record is None:
            if len(self.records) >= limits.DEVICES_MAX:
                log.error("too_many_devices", device=device_id, most=limits.DEVICES_MAX)
                return None
            never = -1 if self.resumes else 0
            record = Record(DeviceRow(device_id, resumes=never, report_resumes=never), time.monotonic())
            self.records[device_id] = record
        return record

    def heard(self, record: Record, **changes: object) -> None:
        """It said something; the row is written soon."""
        record.heard_s = time.monotonic()
        record.row = replace(record.row, last_heard_unix_ms=now_unix_ms(), **changes)  # type: ignore[arg-type]
        self.dirty.add(record.row.device_id)

    async def write(self) -> None:
        """Write what changed of devices, and the parts that were served, together. Raises Unavailable or Corrupt."""
        names, parts = sorted(self.dirty), self.parts
        if not names and not parts:
            return
        rows = [self.records[name].row for name in names]
        self.dirty, self.parts = set(), []

        def write(connection: Connection) -> None:
            for row in rows:
                write_device(connection, row)
            log_parts(connection, parts)

        try:
            await self.database.run(write)
        except HoldfastError:
            self.dirty |= set(names)
            self.parts = [*parts, *self.parts][-limits.SERVED_PARTS_WAITING_MAX :]
            raise
