"""Rollouts as an operator drives them: a real coordinator and broker; played devices serve, refuse, wait, leave."""

from __future__ import annotations

import json
import signal

import pytest

from cloud_sync.client.api import Coordinator
from cloud_sync.operator_cli.following import follow
from edge_agent.contract.device_state import CandidateState
from edge_agent.contract.errors import Unavailable
from tests.fleet.conftest import Scene
from tests.fleet.played import refuses, waits
from tests.fleet.stand import Operator, ended
from tests.harness.agent import wait_until


def test_a_rollout_is_followed_until_every_device_serves_and_so_is_the_way_back(
    operator: Operator, scene: Scene
) -> None:
    for device in ("a", "b"):
        scene.enter(device)
    done = scene.start("--wait", "30")
    assert done["rollout"]["state"] == "done" and done["refusals"] == []
    assert done["rollout"]["devices"] == {scene.name("a"): "done", scene.name("b"): "done"}
    assert [scene.slot(device)["active"]["version"] for device in ("a", "b")] == ["1.1.0", "1.1.0"]
    back = operator.run("rollback", scene.model, "--to", "1.0.0", "--wait", "30")
    assert f"{scene.model}@1.0.0, all, done: 2 done" in back.stdout and "rollback" in back.stderr
    listed = operator.document("rollout", "status")["rollouts"]
    assert {one["kind"]: one["state"] for one in listed if one["model"] == scene.model} == {
        "rollout": "superseded",
        "rollback": "done",
    }
    rows = scene.rows(operator.run("devices", "list").stdout)
    assert rows.count("1.0.0") == 4 and rows.count(" s ago") == 2  # what serves and what is assigned, twice


def test_a_rollout_states_its_policy(operator: Operator, scene: Scene) -> None:
    scene.enter("a")
    begun = scene.start("--policy", "probation_s=7", "--policy", "share_percents=[5, 50]")
    assert begun["rollout"]["policy"] == {"probation_s": 7.0, "share_percents": [5, 50]}


def test_a_rollout_that_is_not_waited_for_says_how_to_follow_it(operator: Operator, scene: Scene) -> None:
    scene.enter("a", waits)
    begun = scene.start()
    assert begun.keys() == {"rollout"} and begun["rollout"]["state"] == "running"
    text = operator.run("rollout", "start", scene.model, "--to", "1.1.0").stdout
    assert "has begun: 1 assigned" in text and "--watch" in text


def test_each_device_that_refuses_is_shown_with_its_own_reason(operator: Operator, scene: Scene) -> None:
    scene.enter("a", refuses("incompatible", "this is a \x1b[2Jjetson"))
    scene.enter("b", refuses("proof", "y is 3.2 off"))
    scene.enter("c")
    failed = scene.start("--wait", "30", code=1)
    assert (failed["ok"], failed["rollout"]["state"]) == (False, "halted")
    reasons = {each["device_id"]: each["reason"] for each in failed["refusals"]}
    assert reasons == {scene.name("a"): "incompatible", scene.name("b"): "proof"}
    assert failed["reason"] in reasons.values() and f"fleet rollback {scene.model}" in failed["next_step"]
    which = failed["rollout"]["id"]
    for command in (("rollout", "status", which), ("devices", "list")):
        text = operator.run(*command).stdout
        rows = scene.rows(text)
        assert "incompatible" in rows and "y is 3.2 off" in rows and rows.count("not tried again") == 2
        assert "\x1b" not in text and "next step: " in text
    watched = operator.run("rollout", "status", which, "--watch", code=1)
    assert "was halted" in watched.stderr and "failed" in watched.stdout


def test_one_after_the_other_stops_at_the_first_that_refuses(operator: Operator, scene: Scene) -> None:
    first = scene.enter("a", refuses("load_crash"))
    second = scene.enter("b")
    wish = ("rollout", "start", scene.model, "--to", "1.1.0", "--strategy", "one", "--wait", "30")
    halted = operator.run(*wish, code=1)
    assert f"was halted: {scene.name('a')} turned it away: load_crash" in halted.stderr
    assert f"halted by {scene.name('a')}: load_crash" in halted.stdout
    assert first.wishes and not second.wishes


def test_only_the_named_devices_are_reached(operator: Operator, scene: Scene) -> None:
    for device in ("a", "b", "c"):
        scene.enter(device)
    done = scene.start("--device", scene.name("a"), "--device", scene.name("c"), "--wait", "30")
    assert set(done["rollout"]["devices"]) == {scene.name("a"), scene.name("c")}
    assert scene.slot("b")["active"]["version"] == "0.9.0"
    typo = scene.name("a") + "x"
    for refused in (scene.start("--device", typo, code=1), operator.document("devices", "show", typo, code=1)):
        assert refused["reason"] == "unknown_device" and scene.name("a") in refused["message"]


def test_when_the_time_is_over_the_exit_code_is_one_and_the_device_is_named(scene: Scene) -> None:
    scene.enter("a")
    scene.enter("b", waits)
    late = scene.start("--wait", "1", code=1)
    assert late["reason"] is None and late["rollout"]["state"] == "running"
    assert "is not done after 1 s" in late["message"] and f"assigned: {scene.name('b')}" in late["message"]
    assert "--watch" in late["next_step"]


def test_a_rollout_is_watched_through_its_phases_by_a_command_beside(operator: Operator, scene: Scene) -> None:
    player = scene.enter("a", waits)
    scene.start()
    (wish,) = wait_until(lambda: player.wishes, "the wish arrived")
    with operator.beside("rollout", "status", "--watch", "--json") as watching:
        assert watching.stderr is not None
        assert "1 assigned" in watching.stderr.readline()
        player.tell(candidate=CandidateState("1.1.0", wish.digest, "probation"))
        assert "1 probation" in watching.stderr.readline()
        assert "1.1.0 (probation)" in scene.rows(operator.run("devices", "list").stdout)
        player.serve()
        out = ended(watching, 0)
    assert json.loads(out)["rollout"]["state"] == "done"


def test_following_outlives_a_restart_of_the_coordinator(operator: Operator, scene: Scene) -> None:
    player = scene.enter("a", waits)
    with operator.beside("rollout", "start", scene.model, "--to", "1.1.0", "--wait", "60") as following:
        assert following.stderr is not None
        assert "has begun" in following.stderr.readline()
        assert "1 assigned" in following.stderr.readline()
        operator.town.stop()
        assert "cannot be reached" in following.stderr.readline()
        operator.town.restart()
        player.serve()
        out = ended(following, 0)
    assert f"{scene.model}@1.1.0, all, done: 1 done" in out


def test_a_coordinator_that_stays_away_ends_the_following_and_what_was_known_is_told(
    operator: Operator, scene: Scene
) -> None:
    scene.enter("a", waits)
    wish = ("rollout", "start", scene.model, "--to", "1.1.0", "--wait", "3", "--json")
    with operator.beside(*wish) as following, Coordinator(operator.town.url, operator.town.token_file) as client:
        assert following.stderr is not None
        assert "has begun" in following.stderr.readline()
        assert "1 assigned" in following.stderr.readline()
        first = client.rollout(operator.document("rollout", "status")["rollouts"][0]["id"])
        operator.town.stop()
        with pytest.raises(Unavailable, match="cannot be reached"):
            follow(client, first, None, away_s=0.2)
        told = json.loads(ended(following, 1))
    operator.town.restart()
    assert "is not done after 3 s" in told["message"] and told["rollout"]["state"] == "running"
    assert told["refusals"] == [] and told["next_step"]


def test_an_operator_who_stops_watching_stops_nothing_else(operator: Operator, scene: Scene) -> None:
    player = scene.enter("a", waits)
    with operator.beside("rollout", "start", scene.model, "--to", "1.1.0", "--wait", "60") as following:
        assert following.stderr is not None
        assert "has begun" in following.stderr.readline()
        assert "1 assigned" in following.stderr.readline()
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=30)
    assert following.returncode == 1 and out == "" and err.strip() == "Aborted!"
    wait_until(lambda: player.wishes, "the wish arrived")
    player.serve()
    which = operator.document("rollout", "status")["rollouts"][0]["id"]
    assert operator.document("rollout", "status", which, "--watch")["rollout"]["state"] == "done"


def test_a_newer_rollout_ends_the_watching_of_an_older_one(operator: Operator, scene: Scene) -> None:
    scene.enter("a", waits)
    first = scene.start()["rollout"]["id"]
    scene.start(version="1.0.0")
    told = operator.document("rollout", "status", first, "--watch", code=1)
    assert told["reason"] == "superseded"
    assert operator.document("rollout", "status", first)["rollout"]["state"] == "superseded"


def test_a_device_that_left_is_offline_and_was_heard_by_the_coordinators_clock(
    operator: Operator, scene: Scene
) -> None:
    scene.enter("a")
    scene.enter("b").vanish()
    wait_until(lambda: not scene.told("b")["online"], "b is gone")
    assert scene.told("a")["online"]
    told = operator.document("devices", "list")
    for device in told["devices"]:
        assert -1000 <= told["coordinator_unix_ms"] - device["last_heard_unix_ms"] < 600_000
    done = scene.start("--wait", "30")
    assert done["rollout"]["devices"] == {scene.name("a"): "done", scene.name("b"): "offline"}
    text = operator.run("rollout", "status", done["rollout"]["id"]).stdout
    assert f"given it when they come back: {scene.name('b')}" in text


def test_a_device_is_shown_with_the_newest_facts_that_it_reported(operator: Operator, scene: Scene) -> None:
    player = scene.enter("a")
    player.device.reports(1, 2)
    player.device.wait_ack(2)
    shown = operator.document("devices", "show", scene.name("a"))
    assert [report["number"] for report in shown["reports"]] == [2, 1]
    assert shown["models"][scene.model]["active"]["version"] == "0.9.0" and shown["coordinator_unix_ms"]
    text = operator.run("devices", "show", scene.name("a")).stdout
    assert "2023-11-14T22:13:20Z" in text and "phase" in text and "\nagent 0.1.0; assignment taken: none\n" in text
