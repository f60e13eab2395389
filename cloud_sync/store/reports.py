"""Committing reports once, however often they come, and reading them back; the acknowledgement is built above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from cloud_sync import limits
from cloud_sync.store.tables import devices, incarnations, reports


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a batch. committed: the number up to which all is settled now. new, lost: counts of reports."""

    committed: int
    new: int
    lost: int


def committed_of(connection: Connection, device_id: str, incarnation: str) -> int:
    """Up to which number the reports of this incarnation are settled; 0 for one that is not known."""
    found = connection.scalar(
        select(incarnations.c.committed).where(
            incarnations.c.device_id == device_id, incarnations.c.incarnation == incarnation
        )
    )
    return int(found or 0)


def commit_batch(
    connection: Connection,
    device_id: str,
    incarnation: str,
    after: int,
    documents: Sequence[tuple[int, bytes]],
    now_unix_ms: int,
) -> Committed:
    """Take what is new of these (number, document), in the order of their numbers; a gap before one is lost for good.

    Nothing is taken of a batch that begins after more than is here: the device sends the rest again. It has a row.
    """
    before = committed_of(connection, device_id, incarnation)
    new = [(number, document) for number, document in documents if number > before]
    if after > before or not new:
        return Committed(before, 0, 0)
    connection.execute(
        insert(reports),
        [
            {
                "device_id": device_id,
                "incarnation": incarnation,
                "number": number,
                "received_unix_ms": now_unix_ms,
                "document": document,
            }
            for number, document in new
        ],
    )
    committed = new[-1][0]
    lost = committed - before - len(new)
    _settle(connection, device_id, incarnation, committed)
    if lost:
        total = devices.c.lost_reports + lost
        connection.execute(update(devices).where(devices.c.device_id == device_id).values(lost_reports=total))
    _keep_newest(connection, device_id)
    return Committed(committed, len(new), lost)


def newest_reports(connection: Connection, device_id: str, count: int) -> list[tuple[int, bytes]]:
    """(received_unix_ms, document) of the newest, newest first."""
    found = connection.execute(
        select(reports.c.received_unix_ms, reports.c.document)
        .where(reports.c.device_id == device_id)
        .order_by(reports.c.id.desc())
        .limit(count)
    )
    return [(row[0], row[1]) for row in found]


def _settle(connection: Connection, device_id: str, incarnation: str, committed: int) -> None:
    values = {"device_id": device_id, "incarnation": incarnation, "committed": committed}
    connection.execute(
        insert(incarnations)
        .values(values)
        .on_conflict_do_update(index_elements=["device_id", "incarnation"], set_={"committed": committed})
    )


def _keep_newest(connection: Connection, device_id: str) -> None:
    """Bound what one device may fill; an incarnation that began long ago never comes again."""
    for table, most in (
        (reports, limits.REPORTS_PER_DEVICE_MAX),
        (incarnations, limits.INCARNATIONS_PER_DEVICE_MAX),
    ):
        of_device = table.c.device_id == device_id
        count = connection.scalar(select(func.count()).select_from(table).where(of_device)) or 0
        if count > most:
            oldest = select(table.c.id).where(of_device).order_by(table.c.id).limit(count - most)
            connection.execute(delete(table).where(table.c.id.in_(oldest)))
