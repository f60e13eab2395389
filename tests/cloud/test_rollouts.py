"""Rollouts through the running coordinator: what devices are assigned, and what operators are told."""

from __future__ import annotations

import json
from typing import Any

from edge_agent.contract import topics
from tests.cloud.conftest import NewDevice
from tests.cloud.device import Device, slot
from tests.cloud.town import Town
from tests.harness.agent import wait_until
from tests.harness.releases import Releases


def wait_state(town: Town, made: dict[str, Any], state: str) -> dict[str, Any]:
    """The rollout once it is in this state."""

    def reached() -> dict[str, Any] | None:
        now = town.rollout_now(made["id"])
        return now if now["state"] == state else None

    found: dict[str, Any] = wait_until(reached, lambda: f"{state}: {town.rollout_now(made['id'])}", 20.0)
    return found


def confirm(device: Device, published: Releases, version: str, generation: int) -> None:
    """The device serves this version."""
    device.state(tiny=slot((version, published.all[version].digest), generation=generation))


def fail(device: Device, published: Releases, version: str, generation: int, reason: str = "proof") -> None:
    """The device turned this version away in this generation, and serves what it served."""
    digest = published.all[version].digest
    told = slot(("0.9.0", "9" * 64), generation=generation, failed=(version, digest, reason))
    device.state(tiny=told)


def test_one_goes_from_device_to_device(town: Town, new_device: NewDevice, published: Releases) -> None:
    first, second = new_device(town, "one-1"), new_device(town, "one-2")
    made = town.rollout("1.0.0", "one", devices=["one-1", "one-2"])
    assert made["devices"] == {"one-1": "assigned", "one-2": "pending"}
    first.wait_assignment("1.0.0")
    digest = published.all["1.0.0"].digest
    first.state(tiny=slot(("1.0.0", digest), candidate=("1.0.0", digest, "probation"), generation=made["generation"]))
    wait_until(lambda: town.rollout_now(made["id"])["devices"]["one-1"] == "probation", "it is tried")
    assert second.quiet(topics.ASSIGNMENT)
    confirm(first, published, "1.0.0", made["generation"])
    second.wait_assignment("1.0.0")
    confirm(second, published, "1.0.0", made["generation"])
    assert wait_state(town, made, "done")["devices"] == {"one-1": "done", "one-2": "done"}


def test_one_halts_and_says_at_which_device_and_why_and_a_newer_rollout_goes_on(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    names = ["halt-1", "halt-2"]
    first, second = (new_device(town, name) for name in names)
    made = town.rollout("1.0.0", "one", devices=names)
    first.wait_assignment("1.0.0")
    fail(first, published, "1.0.0", made["generation"])
    halted = wait_state(town, made, "halted")
    assert halted["halted_by"] == {"device_id": "halt-1", "reason": "proof"}
    assert halted["devices"] == {"halt-1": "failed", "halt-2": "pending"}
    assert second.quiet(topics.ASSIGNMENT)

    newer = town.rollout("1.1.0", devices=names)
    first.wait_assignment("1.1.0")
    second.wait_assignment("1.1.0")
    assert newer["generation"] > made["generation"]
    assert town.rollout_now(made["id"])["state"] == "superseded"
    assert town.rollout_now(made["id"])["halted_by"] == {"device_id": "halt-1", "reason": "proof"}


def test_a_device_that_vanished_does_not_block_and_has_its_turn_when_it_is_back(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    first, second = new_device(town, "gone-1"), new_device(town, "gone-2")
    first.vanish()
    wait_until(lambda: not town.ask("GET", "/v1/devices/gone-1")[1]["online"], "it is offline")
    made = town.rollout("1.0.0", "one", devices=["gone-1", "gone-2"])
    assert made["devices"] == {"gone-1": "offline", "gone-2": "assigned"}
    second.wait_assignment("1.0.0")
    confirm(second, published, "1.0.0", made["generation"])
    wait_state(town, made, "done")
    first.connect()
    first.hello()
    first.wait_assignment("1.0.0")
    assert town.rollout_now(made["id"])["devices"]["gone-1"] == "assigned"


def test_the_will_of_an_earlier_connection_says_nothing_about_the_present_one(
    town: Town, new_device: NewDevice
) -> None:
    device = new_device(town, "will-1")
    stale = device.presence(False)
    device.disconnect()
    device.connect()
    device.hello()
    device.next_ack()
    device.say(topics.PRESENCE, stale)
    device.reports(1)
    device.wait_ack(1)  # said after the stale will, so that one has been heard
    assert town.ask("GET", "/v1/devices/will-1")[1]["online"]
    device.say(topics.PRESENCE, device.presence(False))
    wait_until(lambda: not town.ask("GET", "/v1/devices/will-1")[1]["online"], "its own will counts")


def test_all_takes_in_devices_that_appear_later(town: Town, new_device: NewDevice, published: Releases) -> None:
    new_device(town, "early")
    made = town.rollout("1.1.0")
    late = new_device(town, "late")
    late.wait_assignment("1.1.0")
    confirm(late, published, "1.1.0", made["generation"])
    wait_until(lambda: town.rollout_now(made["id"])["devices"]["late"] == "done", "it counts")


def test_a_rollback_is_planned_like_a_rollout_and_is_called_by_its_name(town: Town, new_device: NewDevice) -> None:
    device = new_device(town, "back-1")
    town.rollout("1.1.0", devices=["back-1"])
    device.wait_assignment("1.1.0")
    wish = {"model": "tiny", "version": "1.0.0", "devices": ["back-1"]}
    status, document = town.ask("POST", "/v1/rollback", wish)
    assert (status, document["rollout"]["kind"], document["rollout"]["strategy"]) == (200, "rollback", "all")
    device.wait_assignment("1.0.0")


def test_a_device_is_shown_as_it_told_and_as_it_was_assigned(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(town, "shown-1")
    made = town.rollout("1.0.0", devices=["shown-1"])
    assignment = device.wait_assignment("1.0.0")
    fail(device, published, "1.0.0", made["generation"], "load_crash")
    digest = published.all["1.0.0"].digest

    def told() -> dict[str, Any] | None:
        shown = town.ask("GET", "/v1/devices/shown-1")[1]
        return shown if shown["models"]["tiny"]["turned_away"] else None

    shown = wait_until(told, "the state is there")
    assert (shown["device_type"], shown["online"], shown["lost_reports"]) == ("x86_64", True, 0)
    assert (shown["epoch"], shown["revision"]) == (assignment.epoch, assignment.revision)
    model = shown["models"]["tiny"]
    assert model["active"] == {"version": "0.9.0", "digest": "9" * 64}
    assert model["assigned"] == {"version": "1.0.0", "digest": digest, "generation": made["generation"]}
    assert model["turned_away"] == [
        {"version": "1.0.0", "digest": digest, "reason": "load_crash", "detail": "", "blocked": True}
    ]
    assert "shown-1" in [one["device_id"] for one in town.ask("GET", "/v1/devices")[1]["devices"]]


def test_an_assignment_is_told_in_the_log_with_all_that_joins_it_to_its_rollout_and_the_device(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(town, "logged-1")
    made = town.rollout("1.0.0", devices=["logged-1"])
    taken = device.wait_assignment("1.0.0")
    device.reports(1, 2)
    device.next_ack()

    def of_device(event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in town.log_file.read_text().splitlines()]
        return [line for line in lines if line["event"] == event and line.get("device") == "logged-1"]

    last = of_device("assigned")[-1]
    assert (last["epoch"], last["revision"]) == (taken.epoch, taken.revision)
    told = {key: last[key] for key in ("model", "snapshot", "version", "generation", "rollout")}
    digest, generation = published.all["1.0.0"].digest, taken.models["tiny"].generation
    assert told == {
        "model": "tiny", "snapshot": digest, "version": "1.0.0", "generation": generation, "rollout": made["id"],
    }  # fmt: skip
    assert [(line["new"], line["committed"]) for line in of_device("reports_committed")] == [(2, 2)]


def test_what_nobody_knows_is_refused_with_the_nearest_names(town: Town, new_device: NewDevice) -> None:
    new_device(town, "kiosk-7")
    new_device(town, "other-1", models=("other",))

    def refused(**wish: Any) -> tuple[int, str, str]:
        status, document = town.ask("POST", "/v1/rollouts", {"model": "tiny", "version": "1.0.0", **wish})
        assert document["ok"] is False
        assert document["next_step"]
        return status, document["reason"], document["message"]

    status, reason, message = refused(version="1.0.1")
    assert (status, reason) == (404, "unknown_version")
    assert "1.0.0" in message
    status, reason, message = refused(model="tinny")
    assert (status, reason) == (404, "unknown_version")
    assert "tiny" in message
    status, reason, message = refused(devices=["kiosk-8"])
    assert (status, reason) == (404, "unknown_device")
    assert "kiosk-7" in message
    assert refused(model="lonely")[:2] == (400, "no_devices")
    assert refused(devices=["other-1"])[:2] == (400, "no_devices")
    assert refused(devices=["kiosk-7", "other-1"])[:2] == (400, "no_devices")
    assert refused(devices=[])[:2] == (400, "malformed")
    assert refused(strategy="some")[:2] == (400, "malformed")
    assert town.ask("GET", "/v1/rollouts/r999")[0] == 404
    assert town.ask("GET", "/v1/devices/kiosk-77")[1]["reason"] == "unknown_device"
