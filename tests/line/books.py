"""The facts of one device in both of its books: the outbox and journal on the device, the reports at the coordinator.

Both databases are read as they lie on the disk; what has to agree is the tests'.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.contract.report import Report, parse_report
from tests.harness.agent import Agent, wait_until
from tests.harness.coordinator import Coordinator
from tests.harness.fleet import Fleet

Fact = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """newest: the highest number that was ever given. facts: by number. acknowledged: of the device's own book."""

    incarnation: str
    newest: int
    facts: dict[int, Fact]
    acknowledged: int = 0


def on_device(agent: Agent) -> Book:
    """The outbox of the present incarnation, acknowledged reports included."""
    database = agent.state_dir / "agent.db"
    meta = dict(_rows(database, "SELECT key, value FROM meta"))
    found = _rows(database, "SELECT number, body FROM outbox")
    newest = _rows(database, "SELECT seq FROM sqlite_sequence WHERE name='outbox'")
    facts = {number: _fact(parse_report(body)) for number, body in found}
    return Book(meta["incarnation"], newest[0][0] if newest else 0, facts, int(meta.get("acknowledged", 0)))


def at_coordinator(fleet: Fleet, device_id: str, incarnation: str) -> Book:
    """What is committed there of this incarnation."""
    database = fleet.coordinator.data / "coordinator.db"
    found = _rows(
        database,
        "SELECT number, document FROM reports WHERE device_id=? AND incarnation=? ORDER BY id",
        (device_id, incarnation),
    )
    numbers = [number for number, _ in found]
    assert len(numbers) == len(set(numbers)), f"{device_id}: a report counts twice"
    reports = {number: msgspec.json.decode(document, type=Report) for number, document in found}
    for number, report in reports.items():
        assert (report.device_id, report.incarnation, report.number) == (device_id, incarnation, number)
    return Book(incarnation, max(numbers, default=0), {number: _fact(report) for number, report in reports.items()})


def count_at_coordinator(fleet: Fleet) -> int:
    """How many reports of all devices are committed there."""
    return int(_rows(fleet.coordinator.data / "coordinator.db", "SELECT count(*) FROM reports")[0][0])


def assignments_at(coordinator: Coordinator) -> list[Any]:
    """All that it has given."""
    return _rows(coordinator.data / "coordinator.db", "SELECT * FROM assignments ORDER BY device_id")


def journal(agent: Agent) -> list[Fact]:
    """What the device's own story says, without what it calls telemetry, oldest first."""
    lines = _rows(agent.state_dir / "agent.db", "SELECT model, entry FROM journal ORDER BY number")
    entries = [(model, json.loads(entry)) for model, entry in lines]
    return [(e["kind"], model, e.get("digest"), e.get("version")) for model, e in entries]


def check_agree(fleet: Fleet, agent: Agent) -> Book:
    """Wait until nothing is left to be sent; then both books have the numbers 1 to n, and the same facts under them."""
    name = agent.folder.name

    def settled() -> bool:
        book = on_device(agent)
        return book.acknowledged == book.newest == at_coordinator(fleet, name, book.incarnation).newest

    wait_until(settled, lambda: f"{name}: all reports are committed: {agent.log_tail(5)}", 60.0)
    ours = on_device(agent)
    theirs = at_coordinator(fleet, name, ours.incarnation)
    assert sorted(theirs.facts) == list(range(1, ours.newest + 1)), f"{name}: numbers are missing"
    assert theirs.facts == ours.facts, f"{name}: the coordinator has other facts than the device"
    return theirs


def _fact(report: Report) -> Fact:
    return (
        report.kind.value, report.model, report.digest, report.version, report.phase, report.reason, report.detail,
        report.at_unix_ms,
    )  # fmt: skip


def _rows(database: Path, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10.0)) as opened:
        return opened.execute(statement, values).fetchall()
