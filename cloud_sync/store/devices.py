"""Rows of devices, of what they were assigned and what they may fetch; when they change is decided above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from cloud_sync import limits
from cloud_sync.core.fleet import Target
from cloud_sync.store.tables import assignments, devices, entitlements
from edge_agent.contract.policy import Policy


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as it is kept. state: its last raw DeviceState; the rest is explained beside the table."""

    device_id: str
    device_type: str = ""
    agent_version: str = ""
    models: tuple[str, ...] = ()
    connection_id: str = ""
    connected: bool = False
    last_heard_unix_ms: int = 0
    told_epoch: int = 0
    told_revision: int = 0
    resumes: int = 0
    report_resumes: int = 0
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class AssignmentRow:
    """The last assignment of a device."""

    epoch: int
    revision: int
    models: Mapping[str, Target]


def write_device(connection: Connection, row: DeviceRow) -> None:
    """Insert or change; its lost reports stay."""
    values = {**asdict(row), "models": list(row.models)}
    connection.execute(
        insert(devices)
        .values(**values, lost_reports=0)
        .on_conflict_do_update(index_elements=["device_id"], set_={k: v for k, v in values.items() if k != "device_id"})
    )


def all_devices(connection: Connection) -> list[tuple[DeviceRow, int]]:
    """Every device with the number of its lost reports."""
    found = []
    for row in connection.execute(select(devices)).mappings():
        kept: dict[str, Any] = {field.name: row[field.name] for field in fields(DeviceRow)}
        found.append((DeviceRow(**{**kept, "models": tuple(kept["models"])}), int(row["lost_reports"])))
    return found


def write_assignment(connection: Connection, device_id: str, row: AssignmentRow) -> None:
    """Take the place of the last assignment; what it names may be fetched from now on."""
    models = {
        name: [target.digest, target.version, target.generation, msgspec.to_builtins(target.policy)]
        for name, target in row.models.items()
    }
    values = {"epoch": row.epoch, "revision": row.revision, "models": models}
    connection.execute(
        insert(assignments)
        .values(device_id=device_id, **values)
        .on_conflict_do_update(index_elements=["device_id"], set_=values)
    )
    for digest in sorted({target.digest for target in row.models.values()}):
        connection.execute(insert(entitlements).values(device_id=device_id, digest=digest).on_conflict_do_nothing())
    of_device = entitlements.c.device_id == device_id
    count = connection.scalar(select(func.count()).select_from(entitlements).where(of_device)) or 0
    if count > limits.ENTITLEMENTS_PER_DEVICE_MAX:
        spare = count - limits.ENTITLEMENTS_PER_DEVICE_MAX
        oldest = select(entitlements.c.id).where(of_device).order_by(entitlements.c.id).limit(spare)
        connection.execute(delete(entitlements).where(entitlements.c.id.in_(oldest)))


def all_assignments(connection: Connection) -> dict[str, AssignmentRow]:
    """The last assignment of every device."""
    return {
        row.device_id: AssignmentRow(
            row.epoch, row.revision, {name: _target(*target) for name, target in row.models.items()}
        )
        for row in connection.execute(select(assignments))
    }


def _target(digest: str, version: str, generation: int, policy: Mapping[str, Any] | None = None) -> Target:
    """As it was written; without a policy by an earlier version."""
    return Target(digest, version, generation, msgspec.convert(policy or {}, Policy))


def all_entitlements(connection: Connection) -> dict[str, set[str]]:
    """Digests that each device may fetch."""
    found: dict[str, set[str]] = {}
    for row in connection.execute(select(entitlements.c.device_id, entitlements.c.digest)):
        found.setdefault(row.device_id, set()).add(row.digest)
    return found
