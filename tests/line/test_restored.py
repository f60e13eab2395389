"""A database that comes back older than the other side knows it, the coordinator's and a device's: nothing is lost that
one of them still has, nothing is stuck, and the next rollout reaches everybody.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.faults.checks import check_answers
from tests.harness.agent import wait_until
from tests.harness.fleet import Fleet
from tests.line import books, wishes


def back_up(database: Path, to: Path) -> None:
    """Beside whoever writes it, with what only its write-ahead log has, as docs/coordinator.md says."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


def put_back(backup: Path, database: Path) -> None:
    """In the place of a database that nobody has open."""
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)
    shutil.copy(backup, database)


def generations(fleet: Fleet) -> dict[str, int]:
    """What each device has taken."""
    return {agent.folder.name: agent.model("tiny")["assigned"]["generation"] for agent in fleet.agents}


def revisions(fleet: Fleet) -> dict[str, int]:
    return {agent.folder.name: agent.status()["sync"]["revision"] for agent in fleet.agents}


def test_a_coordinator_from_a_backup_plans_nothing_until_resume_and_gets_the_missing_reports_again(
    fleet: Fleet, tmp_path: Path
) -> None:
    database = fleet.coordinator.data / "coordinator.db"
    wishes.roll_out(fleet, "1.0.0")
    back_up(database, tmp_path / "yesterday.db")
    for version in ("1.1.0", "1.0.0", "1.1.0"):
        wishes.roll_out(fleet, version)
    for agent in fleet.agents:
        books.check_agree(fleet, agent)
    generations_before, revisions_before = generations(fleet), revisions(fleet)

    fleet.coordinator.stop()
    put_back(tmp_path / "yesterday.db", database)
    fleet.coordinator.start()
    for agent in fleet.agents:
        books.check_agree(fleet, agent)
        assert check_answers(agent, fleet.releases, "planning is stopped") == "1.1.0"
    wait_until(lambda: (fleet.coordinator.health_or_none() or {})["planning"]["stopped"], "it noticed")
    assert (fleet.coordinator.health_or_none() or {})["status"] == "degraded"
    for command in (("devices", "list"), ("rollout", "status")):
        told = fleet.fleet(*command)
        assert told.returncode == 0, told.stderr
        assert "plans nothing" in told.stderr and "fleet resume" in told.stderr
    refused = fleet.fleet("rollout", "start", "tiny", "--to", "1.0.0")
    assert refused.returncode == 1 and "planning_stopped" in refused.stderr
    assert generations(fleet) == generations_before, "nobody was told anything"

    assert fleet.fleet("resume").returncode == 0
    fleet.wait_all_serve("1.0.0")  # what yesterday's database wants counts again
    resumed = generations(fleet)
    rollout = wishes.roll_out(fleet, "1.1.0")
    assert set(rollout["devices"]) == {agent.folder.name for agent in fleet.agents}
    for name, generation in generations(fleet).items():
        assert generation > resumed[name] > generations_before[name]
        assert revisions(fleet)[name] > revisions_before[name]
    assert "plans nothing" not in fleet.fleet("devices", "list").stderr
    for agent in fleet.agents:
        books.check_agree(fleet, agent)


def test_a_device_with_an_older_database_numbers_its_reports_anew_and_follows_the_next_rollout(
    fleet: Fleet, tmp_path: Path
) -> None:
    wishes.roll_out(fleet, "1.1.0")
    agent = fleet.agents[0]
    database = agent.state_dir / "agent.db"
    back_up(database, tmp_path / "agent.db")
    for version in ("1.0.0", "1.1.0", "1.0.0"):
        wishes.roll_out(fleet, version)
    before = books.check_agree(fleet, agent)

    agent.stop()
    put_back(tmp_path / "agent.db", database)
    agent.start().wait_serving()
    wait_until(lambda: books.on_device(agent).incarnation != before.incarnation, "its reports have other numbers")
    agent.wait_model("tiny", lambda slot: slot["active"]["version"] == "1.0.0", "it takes what it forgot to have taken")
    books.check_agree(fleet, agent)
    assert books.at_coordinator(fleet, agent.folder.name, before.incarnation) == before
    wishes.roll_out(fleet, "1.1.0")
    books.check_agree(fleet, agent)
    assert fleet.devices()[agent.folder.name]["lost_reports"] == 0
