"""Rollouts as an operator drives them: a real coordinator and broker; played devices serve, refuse, wait, leave."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from edge_agent.contract.device_state import CandidateState, SnapshotRef
from edge_agent.contract.report import ReportKind
from tests.fleet.played import PlayedDevice, Plays, refuses, serves, taken, waits
from tests.fleet.stand import CoordinatorProcess
from tests.harness.agent import wait_until
from tests.harness.broker import Broker

END_S = 60.0


class Players:
    """Devices that a test lets in; all of them leave at its end."""

    def __init__(self, broker: Broker, fleet: CoordinatorProcess, stack: ExitStack) -> None:
        self._broker, self._fleet, self._stack = broker, fleet, stack

    def enter(self, device_id: str, plays: Plays = serves, **options: Any) -> PlayedDevice:
        """A device that the coordinator has heard of when this returns."""
        device = self._stack.enter_context(PlayedDevice(self._broker, device_id, plays, **options))
        wait_until(lambda: self.told(device_id)["models"], f"{device_id} told its state")
        return device

    def told(self, device_id: str) -> Any:
        """The device as `fleet devices list` has it."""
        nothing: dict[str, Any] = {"models": {}, "online": False}
        listed = self._fleet.document("devices", "list")["devices"]
        return next((device for device in listed if device["device_id"] == device_id), nothing)


@pytest.fixture
def players(broker: Broker, fleet_of: CoordinatorProcess) -> Iterator[Players]:
    with ExitStack() as stack:
        yield Players(broker, fleet_of, stack)


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    """stdout and stderr of a command that ends by itself."""
    try:
        out, err = process.communicate(timeout=END_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, err
    return out, err


def test_a_rollout_is_followed_until_every_device_serves(fleet_of: CoordinatorProcess, players: Players) -> None:
    for name in ("a", "b"):
        players.enter(name)
    done = fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0", "--wait", "30")
    assert done["rollout"]["state"] == "done" and done["rollout"]["devices"] == {"a": "done", "b": "done"}
    assert done["refusals"] == []
    for name in ("a", "b"):
        assert players.told(name)["models"]["tiny"]["active"]["version"] == "1.1.0"
    back = fleet_of.run("rollback", "tiny", "--to", "1.0.0", "--wait", "30")
    assert "tiny@1.0.0, all, done: 2 done" in back.stdout and "rollback" in back.stderr
    listed = fleet_of.document("rollout", "status")["rollouts"]
    assert {one["kind"]: one["state"] for one in listed} == {"rollout": "superseded", "rollback": "done"}
    text = fleet_of.run("devices", "list").stdout
    assert text.count("1.0.0") == 4 and " s ago" in text  # what serves and what is assigned, twice


def test_a_rollout_that_is_not_waited_for_says_how_to_follow_it(fleet_of: CoordinatorProcess, players: Players) -> None:
    players.enter("a", waits)
    begun = fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0")["rollout"]
    assert begun["state"] == "running" and set(begun["devices"]) == {"a"}
    text = fleet_of.run("rollout", "start", "tiny", "--to", "1.1.0").stdout
    assert "has begun: 1 assigned" in text and "--watch" in text


def test_each_device_that_refuses_is_shown_with_its_own_reason(fleet_of: CoordinatorProcess, players: Players) -> None:
    players.enter("a", refuses("incompatible", "this is a \x1b[2Jjetson"))
    players.enter("b", refuses("proof", "y is 3.2 off"))
    players.enter("c")
    failed = fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0", "--wait", "30", code=1)
    assert (failed["ok"], failed["rollout"]["state"]) == (False, "halted")
    assert {each["device_id"]: each["reason"] for each in failed["refusals"]} == {"a": "incompatible", "b": "proof"}
    assert failed["reason"] in ("incompatible", "proof") and "fleet rollback tiny" in failed["next_step"]
    status = fleet_of.run("rollout", "status", failed["rollout"]["id"])
    listed = fleet_of.run("devices", "list")
    for text in (status.stdout, listed.stdout):
        assert "incompatible" in text and "y is 3.2 off" in text and "not tried again" in text
        assert "\x1b" not in text and text.count("next step: ") == 2
    assert fleet_of.run("rollout", "status", failed["rollout"]["id"], "--watch", code=1).stderr.count("halted") == 1


def test_one_after_the_other_stops_at_the_first_that_refuses(fleet_of: CoordinatorProcess, players: Players) -> None:
    first = players.enter("a", refuses("load_crash"))
    second = players.enter("b")
    halted = fleet_of.run("rollout", "start", "tiny", "--to", "1.1.0", "--strategy", "one", "--wait", "30", code=1)
    assert "was halted: a turned it away: load_crash" in halted.stderr
    assert "halted by a: load_crash" in halted.stdout
    assert first.wishes and not second.wishes


def test_only_the_named_devices_are_reached(fleet_of: CoordinatorProcess, players: Players) -> None:
    for name in ("a", "b", "c"):
        players.enter(name)
    wish = ("rollout", "start", "tiny", "--to", "1.1.0", "--device", "a", "--device", "c", "--wait", "30")
    assert set(fleet_of.document(*wish)["rollout"]["devices"]) == {"a", "c"}
    assert players.told("b")["models"]["tiny"]["active"]["version"] == "0.9.0"
    typo = fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0", "--device", "aa", code=1)
    assert typo["reason"] == "unknown_device"
    near = fleet_of.document("devices", "show", "aa", code=1)
    assert near["reason"] == "unknown_device" and "near: a" in near["message"]


def test_when_the_time_is_over_the_exit_code_is_one_and_the_device_is_named(
    fleet_of: CoordinatorProcess, players: Players
) -> None:
    players.enter("a")
    players.enter("b", waits)
    late = fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0", "--wait", "1", code=1)
    assert late["reason"] is None and late["rollout"]["state"] == "running"
    assert "is not done after 1 s" in late["message"] and "assigned: b" in late["message"]
    assert "--watch" in late["next_step"]


def test_a_rollout_is_watched_through_its_phases_by_a_command_beside(
    fleet_of: CoordinatorProcess, players: Players
) -> None:
    device = players.enter("a", waits)
    fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0")
    wait_until(lambda: device.wishes, "the wish arrived")
    wish = device.wishes[-1].models["tiny"]
    watching = fleet_of.begin("rollout", "status", "--watch", "--json")
    try:
        assert watching.stderr is not None
        assert "1 assigned" in watching.stderr.readline()
        coming = CandidateState("1.1.0", wish.digest, "probation")
        device.tell("tiny", candidate=coming, assigned=taken(wish))
        assert "1 probation" in watching.stderr.readline()
        assert "1.1.0 (probation)" in fleet_of.run("devices", "list").stdout
        device.tell("tiny", candidate=None, active=SnapshotRef("1.1.0", wish.digest))
    finally:
        out, _ = ended(watching, 0)
    assert json.loads(out)["rollout"]["state"] == "done"


def test_following_outlives_a_restart_of_the_coordinator(fleet_of: CoordinatorProcess, players: Players) -> None:
    device = players.enter("a", waits)
    following = fleet_of.begin("rollout", "start", "tiny", "--to", "1.1.0", "--wait", "60")
    try:
        wait_until(lambda: device.wishes, "the wish arrived")
        where = fleet_of.url.removeprefix("http://")
        fleet_of.stop()
        fleet_of.start(where)
        serves(device, "tiny", device.wishes[-1].models["tiny"])
    finally:
        out, _ = ended(following, 0)
    assert "tiny@1.1.0, all, done: 1 done" in out


def test_a_newer_rollout_ends_the_watching_of_an_older_one(fleet_of: CoordinatorProcess, players: Players) -> None:
    players.enter("a", waits)
    first = fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0")["rollout"]["id"]
    fleet_of.document("rollout", "start", "tiny", "--to", "1.0.0")
    told = fleet_of.document("rollout", "status", first, "--watch", code=1)
    assert told["reason"] == "superseded"
    assert fleet_of.document("rollout", "status", first)["rollout"]["state"] == "superseded"


def test_a_device_that_left_is_offline_and_was_heard_of_by_the_coordinators_clock(
    fleet_of: CoordinatorProcess, players: Players
) -> None:
    players.enter("a")
    players.enter("b").leave()
    wait_until(lambda: not players.told("b")["online"], "b is gone")
    assert players.told("a")["online"]
    told = fleet_of.document("devices", "list")
    for device in told["devices"]:
        assert 0 <= told["coordinator_unix_ms"] - device["last_heard_unix_ms"] + 1000 < 60_000
    done = fleet_of.document("rollout", "start", "tiny", "--to", "1.1.0", "--wait", "30")
    assert done["rollout"]["devices"] == {"a": "done", "b": "offline"}
    text = fleet_of.run("rollout", "status", done["rollout"]["id"]).stdout
    assert "given it when they come back: b" in text


def test_a_device_is_shown_with_the_newest_facts_that_it_reported(
    fleet_of: CoordinatorProcess, players: Players
) -> None:
    device = players.enter("a")
    device.report(1, ReportKind.SERVING, model="tiny", version="0.9.0", digest="0" * 64)
    device.report(2, ReportKind.DAMAGE, model="tiny", detail="one \x1b[31mchunk")
    shown = wait_until(
        lambda: (one := fleet_of.document("devices", "show", "a"))["reports"][1:] and one, "both reports are committed"
    )
    assert sorted(report["number"] for report in shown["reports"]) == [1, 2]
    assert shown["device_type"] == "x86_64" and shown["models"]["tiny"]["active"]["version"] == "0.9.0"
    text = fleet_of.run("devices", "show", "a").stdout
    assert "one \ufffd[31mchunk" in text and "2027-01-15T08:00:00Z" in text and "0.1.0" in text
