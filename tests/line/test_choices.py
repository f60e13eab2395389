"""What the devices of a fleet do not take, what was chosen on one of them, and wishes that reach nobody: each is told
where an operator looks, and nothing else changes.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cloud_sync.publish.pack import refresh
from tests.faults.checks import check_answers
from tests.harness.fleet import Fleet
from tests.line import wishes
from tests.store.disks import fill, small_disk
from tests.tiny_model import write_tiny_model

YEARS = timedelta(days=3000)
LARGE = 60_000  # hidden cells: 1.7 MB
LEFT_BYTES = 300_000


def slot(fleet: Fleet, device_id: str) -> dict[str, Any]:
    """What the coordinator knows of the fleet's model on this device."""
    document: dict[str, Any] = fleet.devices()[device_id]["models"][fleet.releases.model]
    return document


def repository_files(fleet: Fleet) -> dict[str, bytes]:
    """All that the publisher has signed."""
    folder = fleet.releases.publisher.repository.folder
    return {str(p): p.read_bytes() for name in ("metadata", "manifests") for p in (folder / name).rglob("*.json")}


def test_wishes_that_cannot_be_meant_change_nothing_and_say_what_could_be_meant(fleet: Fleet, tmp_path: Path) -> None:
    orphan = write_tiny_model(tmp_path / "orphan", name="orphan")
    fleet.releases.publisher.publish_unproven(orphan)
    fleet.fleet_json("snapshot", "publish", "--all")
    wishes.roll_out(fleet, "1.0.0")
    other_bytes = write_tiny_model(tmp_path / "again", version="1.0.0", release=2, seed=99)

    def everything() -> tuple[Any, ...]:
        with wishes.api(fleet) as api:
            told = api.rollouts().document, api.snapshots().document
        return (*told, repository_files(fleet), {name: slot(fleet, name) for name in fleet.devices()})

    before = everything()
    for command, reason, word in (
        (("snapshot", "publish", str(other_bytes)), "version_conflict", "tiny@1.0.0"),
        (("rollout", "start", "tiny", "--to", "1.0.1"), "unknown_version", "1.0.0"),
        (("rollback", "tiny", "--to", "1.1"), "unknown_version", "1.1.0"),
        (("rollout", "start", "tinny", "--to", "1.0.0"), "unknown_version", "tiny"),
        (("rollout", "start", "orphan", "--to", "1.0.0"), "no_devices", "orphan"),
        (("rollout", "start", "tiny", "--to", "1.1.0", "--device", "device-11"), "unknown_device", "device-1"),
    ):
        refused = fleet.fleet(*command)
        assert refused.returncode == 1, (command, refused.stdout)
        assert f"({reason})" in refused.stderr and word in refused.stderr, (command, refused.stderr)
        assert "next step: " in refused.stderr, (command, refused.stderr)
    assert everything() == before


def test_what_somebody_chose_on_a_device_holds_until_the_next_rollout(fleet: Fleet) -> None:
    wishes.roll_out(fleet, "1.0.0")
    held, other = fleet.agents[:2]
    rollout = wishes.roll_out(fleet, "1.1.0")
    assert held.cli("rollback", "tiny", "--to", "0.9.0").returncode == 0
    name = held.folder.name
    halted = wishes.wait_state(fleet, rollout, "halted")
    assert halted["devices"] == {name: "failed", other.folder.name: "done"}
    assert halted["halted_by"] == {"device_id": name, "reason": "operator"}
    assert slot(fleet, name)["held"] and not slot(fleet, other.folder.name)["held"]
    shown = fleet.fleet("devices", "show", name).stdout
    assert "serves 0.9.0; 1.1.0 is assigned, and held until a newer rollout" in shown

    fleet.coordinator.kill()
    killed_unix_ms = time.time_ns() // 1_000_000
    fleet.coordinator.start()  # it tells every device its assignment again, then calls for their hellos
    fleet.wait_device(name, lambda device: device["last_heard_unix_ms"] > killed_unix_ms, "it said hello again")
    assert check_answers(held, fleet.releases, "held") == "0.9.0"
    assert check_answers(other, fleet.releases, "not held") == "1.1.0"

    wishes.roll_out(fleet, "1.1.0")
    assert check_answers(held, fleet.releases, "the next rollout") == "1.1.0"
    assert not slot(fleet, name)["held"]


def test_expired_metadata_stops_new_content_and_neither_the_way_back_nor_a_new_device(fleet: Fleet) -> None:
    publisher = fleet.releases.publisher
    wishes.roll_out(fleet, "1.0.0")
    wishes.roll_out(fleet, "1.1.0")
    fleet.releases.publish("3.0.0", proven=False)
    refresh(keys=publisher.keys, repository=publisher.repository, now=datetime.now(UTC) - YEARS)
    fleet.fleet_json("snapshot", "publish", "--all")
    newcomer = fleet.add_agent("device-new")  # it has never heard of a coordinator
    newcomer.start().wait_serving()
    fleet.wait_device("device-new", lambda device: device["online"], "it is online")
    wishes.start(fleet, "3.0.0")
    for agent in fleet.agents:
        fleet.wait_device(
            agent.folder.name,
            lambda device: "expired" in {away["reason"] for away in device["models"]["tiny"]["turned_away"]},
            "it says that the metadata has expired",
        )
        assert check_answers(agent, fleet.releases, "expired") == ("0.9.0" if agent is newcomer else "1.1.0")
    assert "expired" in fleet.fleet("devices", "list").stdout
    wishes.wait_state(fleet, wishes.roll_back(fleet, "1.0.0", "device-1"), "done")
    assert check_answers(fleet.agents[0], fleet.releases, "rolled back") == "1.0.0"

    publisher.refresh()
    fleet.fleet_json("snapshot", "publish", "--all")
    for name in ("device-2", "device-new"):
        fleet.wait_device(
            name, lambda device: device["models"]["tiny"]["active"]["version"] == "3.0.0", "it comes by itself", 60.0
        )
    newcomer.stop()
    fleet.wait_device("device-new", lambda device: not device["online"], "it is gone")


def test_a_full_disk_declines_a_snapshot_which_comes_by_itself_once_there_is_room(fleet: Fleet) -> None:
    large = fleet.releases.publish("4.0.0", proven=False, hidden=LARGE)
    fleet.fleet_json("snapshot", "publish", "--all")
    agent = fleet.add_agent("device-small")
    with small_disk(agent.state_dir) as disk, agent:
        agent.start().wait_serving()
        fleet.wait_device("device-small", lambda device: device["online"], "it is online")
        wishes.roll_out(fleet, "1.0.0", "device-small")
        filler = fill(disk, leave_bytes=LEFT_BYTES)
        wishes.start(fleet, "4.0.0", "device-small")
        fleet.wait_device("device-small", lambda device: device["storage"] == "disk_full", "it tells of its full disk")
        assert "disk_full" in fleet.fleet("devices", "list").stdout
        assert check_answers(agent, fleet.releases, "full disk") == "1.0.0"
        assert slot(fleet, "device-small")["turned_away"] == [], "a full disk is not the snapshot's fault"
        filler.unlink()
        fleet.wait_device(
            "device-small",
            lambda device: device["models"]["tiny"]["active"]["digest"] == large.digest and device["storage"] is None,
            "the snapshot comes by itself",
            60.0,
        )
        assert check_answers(agent, fleet.releases, "room again") == "4.0.0"
