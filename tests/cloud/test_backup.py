"""A coordinator restored from a backup of yesterday notices it, plans nothing, and goes on when an operator says so."""

from __future__ import annotations

import shutil
from pathlib import Path

from cloud_sync import limits
from edge_agent.contract import topics
from edge_agent.contract.transfer import Kind
from tests.cloud.conftest import NewDevice
from tests.cloud.device import Device, slot
from tests.cloud.town import Town
from tests.harness.agent import wait_until
from tests.harness.releases import Releases


def back_up(town: Town, to: Path) -> None:
    """Stop, copy the database, start again: with a clean stop the one file is whole."""
    town.stop()
    assert not town.data.joinpath("coordinator.db-wal").exists()
    shutil.copy(town.data / "coordinator.db", to)
    town.restart()


def restore(town: Town, backup: Path) -> None:
    """Put yesterday's database in place, as an operator would after a lost disk."""
    town.stop()
    shutil.copy(backup, town.data / "coordinator.db")
    town.restart()


def stopped(town: Town) -> str:
    """Why nothing is planned."""
    return str((town.health_or_none() or {})["planning"]["stopped"] or "")


def a_day(town: Town, device: Device, backup: Path) -> None:
    """A rollout and two reports before the backup, another rollout and two more reports after it."""
    town.rollout("1.0.0")
    device.wait_assignment("1.0.0")
    device.reports(1, 2)
    device.wait_ack(2)
    back_up(town, backup)
    device.next(topics.COORDINATOR)
    device.hello()
    device.wait_ack(2)
    town.rollout("1.1.0")
    device.wait_assignment("1.1.0")
    device.reports(3, 4)
    device.wait_ack(4)


def test_a_backup_of_yesterday_stops_planning_until_an_operator_goes_on(
    own: Town, new_device: NewDevice, published: Releases, tmp_path: Path
) -> None:
    device = new_device(own, "d1")
    a_day(own, device, tmp_path / "backup.db")
    restore(own, tmp_path / "backup.db")
    assert stopped(own) == ""
    device.next(topics.COORDINATOR)
    device.hello()
    assert device.next_ack().committed == 2, "what is really there, so that the device sends the rest again"
    wait_until(lambda: "d1" in stopped(own), lambda: f"planning is stopped: {stopped(own)}")
    assert "fleet resume" in stopped(own)
    assert (own.health_or_none() or {})["status"] == "degraded"
    assert own.metric("holdfast_planning_stopped") == 1.0

    # reports, parts and hellos go on; wishes are refused
    device.reports(3, 4, after=2)
    device.wait_ack(4)
    assert device.get(Kind.MANIFEST, published.all["1.0.0"].digest)[0] == 200
    status, refused = own.ask("POST", "/v1/rollouts", {"model": "tiny", "version": "1.2.0"})
    assert (status, refused["reason"]) == (503, "planning_stopped")
    own.kill()
    own.restart()
    assert "d1" in stopped(own), "it is remembered"

    device.next(topics.COORDINATOR)
    say_all(device, published, "1.1.0", generation=2)
    ahead = device.revision
    assert own.ask("POST", "/v1/resume") == (200, {"planning": {"stopped": None}})
    again = device.wait_assignment("1.0.0")
    assert again.revision > ahead
    made = own.rollout("1.2.0")
    assert made["generation"] > 2 + 1, "above what the device told, and above the rollout that counts again"
    assert device.wait_assignment("1.2.0").revision > again.revision
    device.hello()
    device.wait_ack(4)
    assert stopped(own) == ""


def say_all(device: Device, published: Releases, version: str, generation: int) -> None:
    """Hello and the state that follows it: this version serves, in this generation."""
    device.hello()
    device.next_ack()
    device.state(tiny=slot((version, published.all[version].digest), generation=generation))


def wait_generation(device: Device, above: int) -> int:
    """Return once the device is assigned a generation above this one."""
    for _ in range(20):
        generation = device.next_assignment().models["tiny"].generation
        if generation > above:
            return generation
    raise AssertionError(f"no generation above {above}")


def test_a_device_that_was_away_while_it_was_resumed_is_taken_over_and_a_later_restore_is_noticed(
    own: Town, new_device: NewDevice, published: Releases, tmp_path: Path
) -> None:
    device, away = new_device(own, "d1"), new_device(own, "d2")
    a_day(own, device, tmp_path / "backup.db")
    away.wait_assignment("1.1.0")
    ahead = away.revision
    away.disconnect()
    restore(own, tmp_path / "backup.db")
    device.next(topics.COORDINATOR)
    device.hello()
    wait_until(lambda: stopped(own), "planning is stopped")
    own.ask("POST", "/v1/resume")
    device.wait_assignment("1.0.0")

    away.connect()
    away.hello()
    away.hello()
    assert away.wait_assignment("1.0.0").revision > ahead
    away.state(tiny=slot(("1.1.0", published.all["1.1.0"].digest), generation=2))
    generation = wait_generation(away, 2)
    assert stopped(own) == ""
    device.acknowledged = 2
    say_all(device, published, "1.0.0", generation)
    wait_until(lambda: own.device("d1")["revision"] == device.revision, "its numbers agree with ours again")

    back_up(own, tmp_path / "second.db")
    device.next(topics.COORDINATOR)
    own.rollout("1.2.0")
    device.wait_assignment("1.2.0")
    restore(own, tmp_path / "second.db")
    device.next(topics.COORDINATOR)
    device.hello()
    wait_until(lambda: "d1" in stopped(own), "the second restore is noticed as well")


def test_a_generation_that_was_never_given_or_a_batch_after_unknown_reports_stops_planning_too(
    own: Town, new_device: NewDevice, published: Releases
) -> None:
    first, device = new_device(own, "d0"), new_device(own, "d1")
    made = own.rollout("1.0.0")
    device.wait_assignment("1.0.0")
    first.wait_assignment("1.0.0")
    say_all(first, published, "1.0.0", made["generation"])
    first.reports(8, after=7)
    first.wait_ack(0)
    wait_until(lambda: "7 reports" in stopped(own), "the reports tell")
    own.ask("POST", "/v1/resume")
    say_all(device, published, "1.0.0", made["generation"])
    digest = published.all["1.0.0"].digest
    device.state(tiny=slot(("1.0.0", digest), generation=made["generation"] + 5))
    wait_until(lambda: "generation" in stopped(own), "the generation tells")


def name_after_another(town: Town) -> None:
    """This coordinator is named once more, after another one: there was an earlier epoch for sure."""
    town.publisher.authorize_coordinator("1" * 64)
    town.publish()


def test_a_device_in_spite_of_which_an_operator_went_on_stops_the_fleet_no_more(
    own: Town, new_device: NewDevice, published: Releases
) -> None:
    liar, honest = new_device(own, "liar"), new_device(own, "honest")
    generation = own.rollout("1.0.0")["generation"]
    honest.wait_assignment("1.0.0")
    liar.wait_assignment("1.0.0")
    liar.hello(revision=liar.revision + 5)
    wait_until(lambda: "device liar" in stopped(own), "it is named")
    own.ask("POST", "/v1/resume")
    say_all(liar, published, "1.0.0", generation)
    liar.hello(acknowledged=7)
    liar.hello(revision=liar.revision + 50)
    wait_until(lambda: "device_not_believed" in own.log_tail(), "it is told in the log")
    own.rollout("1.1.0")
    honest.wait_assignment("1.1.0")
    assert stopped(own) == ""


def test_going_on_above_a_lie_is_done_once_and_leaves_honest_devices_believed(
    own: Town, new_device: NewDevice, published: Releases
) -> None:
    liar, honest = new_device(own, "liar"), new_device(own, "honest")
    own.rollout("1.0.0")
    honest.wait_assignment("1.0.0")
    liar.wait_assignment("1.0.0")
    digest = published.all["1.0.0"].digest
    told = 0
    for _ in range(2):
        told += limits.NUMBER_LEAP_MAX
        liar.state(tiny=slot(("1.0.0", digest), generation=told))
        wait_until(lambda: "generation" in stopped(own) or "taken_over" in own.log_tail(), "it is noticed")
        own.ask("POST", "/v1/resume")
        above = honest.next_assignment().models["tiny"].generation
        assert above > told
        liar.wait_assignment("1.0.0")
    for more in range(2, 20):
        liar.state(tiny=slot(("1.0.0", digest), generation=above + more))
    wait_until(lambda: "device_not_believed" in own.log_tail(), "it is told in the log")
    say_all(honest, published, "1.0.0", above)
    wait_until(lambda: own.device("honest")["models"]["tiny"]["active"], "it is believed")
    assert own.device("honest")["models"]["tiny"]["assigned"]["generation"] == above


def test_numbers_of_an_earlier_coordinator_stop_nothing(own: Town, new_device: NewDevice) -> None:
    name_after_another(own)
    device = new_device(own, "d1")
    device.epoch, device.revision = own_epoch(own, device) - 1, 99
    device.acknowledged = 7
    device.hello()
    assert device.next_ack().committed == 0
    own.rollout("1.0.0")
    device.wait_assignment("1.0.0")
    assert stopped(own) == ""


def test_reports_that_an_earlier_coordinator_took_from_a_device_without_assignment_stop_nothing(
    own: Town, new_device: NewDevice
) -> None:
    name_after_another(own)
    device = new_device(own, "d1")
    device.acknowledged = 7
    device.hello()
    assert device.next_ack().committed == 0
    own.rollout("1.0.0")
    device.wait_assignment("1.0.0")
    assert own_epoch(own, device) > 1, "there may have been an earlier one"
    assert stopped(own) == ""


def own_epoch(town: Town, device: Device) -> int:
    """The epoch in which this coordinator is named."""
    import json

    return int(json.loads(device.get_whole(Kind.COORDINATOR, "coordinator.json"))["epoch"])
