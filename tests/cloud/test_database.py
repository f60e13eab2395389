"""The database's thread and its statements on a real file: committed before it is told, bounded, errors apart."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, func, select, text

from cloud_sync import limits
from cloud_sync.core.fleet import Halt, Kind, Strategy, Target
from cloud_sync.store import rollouts as rollout_rows
from cloud_sync.store.database import Database, open_engine
from cloud_sync.store.devices import (
    AssignmentRow,
    DeviceRow,
    all_assignments,
    all_devices,
    all_entitlements,
    write_assignment,
    write_device,
)
from cloud_sync.store.migrate import migrate
from cloud_sync.store.reports import Committed, commit_batch, committed_of, newest_reports
from cloud_sync.store.snapshots import ServedPart, log_parts
from cloud_sync.store.tables import metadata, reports, served_parts
from edge_agent.contract.errors import Corrupt, Unavailable
from edge_agent.contract.policy import Policy
from tests.cloud.fleets import rollout

POLICY = Policy(shadow_s=5.0, share_percents=(10, 50))

Story = Callable[[Database], Coroutine[Any, Any, None]]


def tell(path: Path, story: Story) -> None:
    """Run a story with an open database."""

    async def run() -> None:
        database = Database(path)
        try:
            await story(database)
        finally:
            await database.close()

    asyncio.run(run())


def connection_of(path: Path) -> Connection:
    """A migrated database, for statements without the thread."""
    engine = open_engine(path)
    migrate(engine)
    return engine.connect()


def test_the_migrations_make_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    with connection_of(tmp_path / "made.db") as connection:
        for table in metadata.sorted_tables:
            kept = {row.name for row in connection.execute(text(f"PRAGMA table_info({table.name})"))}
            assert kept == {column.name for column in table.columns}, table.name
            connection.execute(select(table)).fetchall()
        pragma = {
            name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_what_was_awaited_is_on_the_disk_and_work_that_failed_undoes_itself_alone(tmp_path: Path) -> None:
    def failing(connection: Connection) -> None:
        write_device(connection, DeviceRow("half"))
        raise LookupError("on purpose")

    async def story(database: Database) -> None:
        done = await asyncio.gather(
            database.run(lambda c: write_device(c, DeviceRow("d1"))),
            database.run(failing),
            database.run(lambda c: write_device(c, DeviceRow("d2"))),
            return_exceptions=True,
        )
        assert isinstance(done[1], LookupError)
        with sqlite3.connect(tmp_path / "a.db") as other:
            assert other.execute("SELECT device_id FROM devices ORDER BY 1").fetchall() == [("d1",), ("d2",)]

    tell(tmp_path / "a.db", story)


def test_more_work_than_may_wait_is_refused_at_once_and_the_rest_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WRITES_WAITING_MAX", 3)

    async def story(database: Database) -> None:
        hold, held = threading.Event(), threading.Event()

        def slow(_: Connection) -> None:
            held.set()
            hold.wait(30)

        first = asyncio.ensure_future(database.run(slow))
        await asyncio.to_thread(held.wait, 30)
        waiting = [asyncio.ensure_future(database.run(lambda _: None)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="does not keep up"):
            await database.run(lambda _: None)
        hold.set()
        await asyncio.gather(first, *waiting)

    tell(tmp_path / "a.db", story)


def test_a_stop_waits_no_longer_than_its_bound_for_a_disk_that_hangs_and_blocks_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WRITES_WAITING_MAX", 1)
    monkeypatch.setattr(limits, "WRITER_END_S", 0.1)

    async def story() -> None:
        database = Database(tmp_path / "a.db")
        hold, held = threading.Event(), threading.Event()

        def hanging(_: Connection) -> None:
            held.set()
            hold.wait(30)

        asked = [asyncio.ensure_future(database.run(hanging))]
        await asyncio.to_thread(held.wait, 30)
        asked.append(asyncio.ensure_future(database.run(lambda _: None)))
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                await database.close()
        finally:
            hold.set()
        await asyncio.gather(*asked)
        await database.close()

    asyncio.run(story())


def test_a_damaged_file_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(Corrupt, match="is damaged"):
        Database(tmp_path / "a.db")


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Database(tmp_path / "none" / "a.db")


def test_devices_assignments_and_rollouts_come_back_as_they_were(tmp_path: Path) -> None:
    row = DeviceRow("d1", "x86_64", "0.1.0", ("a", "b"), "c1", True, 5, 1, 7, 0, 1, b"{}")
    assignment = AssignmentRow(1, 7, {"a": Target("e" * 64, "1.0.0", 3)})
    wishes = [
        rollout(1),
        rollout(2, "b" * 64, Strategy.ONE, "d1", "d2", kind=Kind.ROLLBACK, refused_before=frozenset({("d1", "proof")})),
        rollout(3, policy=POLICY),
    ]
    with connection_of(tmp_path / "a.db") as connection:
        write_device(connection, row)
        write_assignment(connection, "d1", assignment)
        write_assignment(connection, "d1", AssignmentRow(1, 8, {"a": Target("f" * 64, "1.1.0", 4, POLICY)}))
        for wish in wishes:
            rollout_rows.write_rollout(connection, wish)
        rollout_rows.halt_rollout(connection, "r2", Halt("d1", "proof"))
        rollout_rows.halt_rollout(connection, "r2", Halt("d2", "later"))
        assert all_devices(connection) == [(row, 0)]
        assert all_assignments(connection)["d1"].revision == 8
        assert all_assignments(connection)["d1"].models["a"].policy == POLICY
        assert all_entitlements(connection) == {"d1": {"e" * 64, "f" * 64}}
        kept = rollout_rows.all_rollouts(connection)
        assert (kept[0], kept[2]) == (wishes[0], wishes[2])
        assert (kept[1].kind, kept[1].devices, kept[1].halted) == (
            Kind.ROLLBACK, frozenset({"d1", "d2"}), Halt("d1", "proof"),
        )  # fmt: skip
        assert kept[1].refused_before == {("d1", "proof")}
        assert rollout_rows.all_generations(connection) == {"m": 3}
        rollout_rows.raise_generation(connection, "m", 1)
        assert rollout_rows.all_generations(connection) == {"m": 3}, "it never falls"


def test_a_database_from_before_policies_is_read_as_without_any(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(engine, to="0001")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO rollouts VALUES (1, 'r1', 'm', '1.0.0', :digest, 1, 5, 'all', 'rollout', NULL, '[]',"
                " NULL, NULL)"
            ),
            {"digest": "a" * 64},
        )
        connection.execute(
            text("INSERT INTO assignments VALUES ('d1', 1, 1, :models)"),
            {"models": json.dumps({"m": ["a" * 64, "1.0.0", 1]})},
        )
    engine.dispose()
    with connection_of(tmp_path / "a.db") as connection:
        assert [(one.rollout_id, one.policy) for one in rollout_rows.all_rollouts(connection)] == [("r1", Policy())]
        assert all_assignments(connection)["d1"].models == {"m": Target("a" * 64, "1.0.0", 1)}


def test_reports_incarnations_entitlements_and_parts_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "REPORTS_PER_DEVICE_MAX",
        "INCARNATIONS_PER_DEVICE_MAX",
        "ENTITLEMENTS_PER_DEVICE_MAX",
        "SERVED_PARTS_MAX",
    ):
        monkeypatch.setattr(limits, name, 4)
    with connection_of(tmp_path / "a.db") as connection:
        write_device(connection, DeviceRow("d1"))
        for number in range(1, 8):
            commit_batch(connection, "d1", "i", number - 1, [(number, b"%d" % number)], 0)
            commit_batch(connection, "d1", f"i{number}", 0, [], 0)
            write_assignment(connection, "d1", AssignmentRow(1, number, {"m": Target(f"{number}" * 64, "1", 1)}))
            log_parts(connection, [ServedPart("d1", f"part-{number}", 0, 1, 0)])
        assert [raw for _, raw in newest_reports(connection, "d1", 50)] == [b"7", b"6", b"5", b"4"]
        assert committed_of(connection, "d1", "i") == 7
        assert all_entitlements(connection) == {"d1": {f"{n}" * 64 for n in (4, 5, 6, 7)}}
        assert connection.scalars(select(served_parts.c.name)).all() == [f"part-{n}" for n in (4, 5, 6, 7)]


def test_an_incarnation_that_still_reports_is_not_forgotten_for_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INCARNATIONS_PER_DEVICE_MAX", 2)
    with connection_of(tmp_path / "a.db") as connection:
        write_device(connection, DeviceRow("d1"))
        for name in ("i1", "i2", "i3"):
            commit_batch(connection, "d1", name, 0, [(1, b"x")], 0)
        assert [committed_of(connection, "d1", name) for name in ("i1", "i2", "i3")] == [0, 1, 1]


batches = st.lists(st.tuples(st.integers(0, 12), st.sets(st.integers(1, 15), max_size=6)), max_size=12)


@given(batches)
def test_whatever_batches_come_each_report_is_there_once_and_every_other_number_is_lost(
    made: list[tuple[int, set[int]]],
) -> None:
    engine = open_engine(Path(":memory:"))
    migrate(engine)
    with engine.connect() as connection:
        write_device(connection, DeviceRow("d1"))
        lost = new = committed = 0
        for after, numbers in made:
            documents = [(number, b"") for number in sorted(numbers) if number > after]
            result = commit_batch(connection, "d1", "i", after, documents, 0)
            assert result.committed >= committed, "it never falls"
            if after > committed:
                assert result == Committed(committed, 0, 0), "more is missing here than the batch brings"
            committed, lost, new = result.committed, lost + result.lost, new + result.new
        assert connection.scalar(select(func.count()).select_from(reports)) == new
        assert new + lost == committed
        assert all_devices(connection)[0][1] == lost
    engine.dispose()
