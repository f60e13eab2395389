"""Rows of published snapshots and of the parts that devices fetched; the files are in `repository`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from cloud_sync import limits
from cloud_sync.store.tables import served_parts, snapshots


@dataclass(frozen=True, slots=True)
class ServedPart:
    """One part that a device got. name: of the chunk, manifest or metadata file; offset, length: in bytes."""

    device_id: str
    name: str
    offset: int
    length: int
    at_unix_ms: int


def remember_snapshots(connection: Connection, found: Sequence[tuple[str, str, str]], now_unix_ms: int) -> None:
    """Note (digest, name, version) of snapshots that are not known yet, as published now."""
    for digest, name, version in found:
        connection.execute(
            insert(snapshots)
            .values(digest=digest, name=name, version=version, published_unix_ms=now_unix_ms)
            .on_conflict_do_nothing()
        )


def all_snapshots(connection: Connection) -> dict[tuple[str, str], tuple[str, int]]:
    """(digest, published_unix_ms) by (name, version): also of what the present metadata does not name any more."""
    return {
        (row.name, row.version): (row.digest, row.published_unix_ms) for row in connection.execute(select(snapshots))
    }


def log_parts(connection: Connection, parts: Sequence[ServedPart]) -> None:
    """Add to the log, which keeps its newest rows."""
    if not parts:
        return
    connection.execute(insert(served_parts), [asdict(part) for part in parts])
    newest = connection.scalar(select(func.max(served_parts.c.id))) or 0
    connection.execute(delete(served_parts).where(served_parts.c.id <= newest - limits.SERVED_PARTS_MAX))
