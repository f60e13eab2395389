"""A device that is whole alone, seen from outside: imports, answers, swaps, kills, repairs.

Real processes, the numpy engine.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from edge_agent.folders import run_folders
from tests.harness.agent import Agent, wait_until
from tests.harness.client import RecordingClient
from tests.harness.damage import flip_parameters, is_damaged
from tests.harness.fixtures import NewAgent
from tests.harness.processes import is_alive
from tests.harness.releases import INPUTS, Release, Releases


def client_of(agent: Agent, releases: Releases) -> RecordingClient:
    return RecordingClient(agent.port(), "tiny", "x", INPUTS, releases.references(), pause_s=0.001)


def bring_in(agent: Agent, release: Release) -> None:
    done = agent.cli("import", str(release.bundle))
    assert done.returncode == 0, done.stderr
    agent.wait_model("tiny", lambda m: m["active"]["version"] == release.version and not m["candidate"], "confirmed")


def flip(agent: Agent, releases: Releases, release: Release) -> None:
    flip_parameters(agent.state_dir / "models.db", releases.publisher.repository.folder, release.bundle)


def test_updates_kills_and_rollback_under_load_fail_nobody(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent(limits={"orphan_s": 30.0}).start_and_wait()
    with client_of(agent, releases) as client:
        bring_in(agent, releases.all["1.0.0"])
        bring_in(agent, releases.all["1.1.0"])
        for _ in range(4):
            victim = agent.workers(releases.all["1.1.0"].digest)[0]
            os.kill(victim["pid"], signal.SIGKILL)
            wait_until(
                lambda gone=victim["id"]: [w for w in agent.workers() if w["id"] != gone][1:], "two workers again"
            )
        front = agent.status()["processes"]["front"]
        agent.kill_runtime()
        answered = len(client.records)
        wait_until(lambda: len(client.records) > answered + 20, "answers without a runtime")
        agent.start_and_wait()
        assert agent.status()["processes"]["front"] == front, "the front was taken over"
        assert agent.cli("rollback", "tiny").returncode == 0
        wait_until(lambda: client.last_version() == "1.0.0", "1.0.0 answers")
    assert client.failures == []
    assert client.mismatches == 0
    assert set(client.versions()) == {"0.9.0", "1.0.0", "1.1.0"}


def test_the_front_is_restarted_on_the_same_port(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent().start_and_wait()
    port, front = agent.port(), agent.status()["processes"]["front"]
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: agent.status()["processes"]["front"] not in (None, front), "another front")
    assert agent.port() == port
    with client_of(agent, releases) as client:
        wait_until(lambda: client.versions(), "an answer")
    assert client.mismatches == 0


def test_damage_is_noticed_served_through_and_repaired_from_the_bundle(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent(scrub={"interval_s": 0.2, "chunks_per_s": 1000}).start_and_wait()
    one, two = releases.all["1.0.0"], releases.all["1.1.0"]
    bring_in(agent, one)
    bring_in(agent, two)
    with client_of(agent, releases) as client:
        flip(agent, releases, two)
        agent.wait_model("tiny", lambda m: is_damaged(m, two.digest), "noticed")
        assert agent.model("tiny")["active"]["version"] == "1.1.0"
        assert agent.cli("verify").returncode == 1
        assert agent.cli("import", str(two.bundle)).returncode == 0
        agent.wait_model("tiny", lambda m: not is_damaged(m, two.digest), "repaired")
        assert agent.model("tiny")["fallbacks"] == 0
        flip(agent, releases, two)
        agent.wait_model("tiny", lambda m: is_damaged(m, two.digest), "noticed again")
        agent.kill_workers(two.digest)
        wait_until(lambda: client.last_version() == "1.0.0", "the last good one answers")
        assert agent.model("tiny")["reason"] == "damage"
        assert agent.cli("import", str(two.bundle)).returncode == 0
        wait_until(lambda: client.last_version() == "1.1.0", "climbed back")
    assert client.failures == []
    assert client.mismatches == 0
    kinds = [line["kind"] for line in agent.cli_json("history", "--newest", "200")["lines"]]
    assert {"damage", "repaired", "serving"} <= set(kinds)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("abort", "load_crash"),
        ("segfault", "load_crash"),
        ("exit", "load_crash"),
        ("hang", "load_timeout"),
        ("nan", "non_finite"),
    ],
)
def test_a_release_that_fails_on_the_device_is_quarantined_by_reason(
    new_agent: NewAgent, releases: Releases, kind: str, reason: str
) -> None:
    version = f"9.0.0-{kind}"
    when = "run" if kind == "nan" else "load"
    if version not in releases.all:
        releases.publish(version, proven=False, layers=({"op": "fault", "when": when, "kind": kind},))
    agent = new_agent(limits={"load_timeout_s": 1.0}).start_and_wait()
    done = agent.cli("import", str(releases.all[version].bundle))
    assert done.returncode == 1
    assert reason in done.stderr
    model = agent.model("tiny")
    assert [record["reason"] for record in model["quarantined"]] == [reason]
    assert (model["active"]["version"], model["serving"]) == ("0.9.0", True)
    again = agent.cli("import", str(releases.all[version].bundle))
    assert again.returncode == 1
    assert "--retry" in again.stderr


def test_wrong_golden_outputs_are_refused_as_proof(new_agent: NewAgent, releases: Releases) -> None:
    releases.publish("9.1.0", proven=False, golden_error=0.5)
    agent = new_agent().start_and_wait()
    done = agent.cli("import", str(releases.all["9.1.0"].bundle))
    assert done.returncode == 1
    assert [record["reason"] for record in agent.model("tiny")["quarantined"]] == ["proof"]


def test_a_poison_request_is_blamed_on_the_request(new_agent: NewAgent, releases: Releases) -> None:
    poisoned = {"op": "fault", "when": "poison", "kind": "segfault", "amount": 666.0}
    release = releases.publish("1.2.0", first_layers=(poisoned,))
    agent = new_agent().start_and_wait()
    assert agent.cli("import", str(release.bundle)).returncode == 0
    port = agent.port()
    poison = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [666.0, 0, 0, 0]}]}
    for _ in range(3):
        assert post(port, poison)[0] == 500
        healthy = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": INPUTS[0].tolist()}]}
        status, answer = post(port, healthy)
        assert status == 200, answer
        assert np.allclose(answer["outputs"][0]["data"], release.answers[0].ravel(), rtol=1e-4)
    model = agent.model("tiny")
    assert model["active"]["version"] == "1.2.0"
    assert model["quarantined"] == []
    assert model["fallbacks"] == 0


def post(port: int, document: dict[str, object]) -> tuple[int, dict[str, list[dict[str, object]]]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/tiny/infer", json.dumps(document).encode(), method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_temporary_files_of_killed_workers_are_removed_also_by_the_next_runtime(new_agent: NewAgent) -> None:
    def scratch() -> dict[str, Path]:
        folders = [folder for run in run_folders(agent.state_dir) for folder in run.glob("worker-*.sock.tmp")]
        return {folder.name.split("-")[1].split(".")[0]: folder for folder in folders}

    agent = new_agent().start_and_wait()
    wait_until(lambda: len(agent.workers()) == 2, "a spare")
    one, other = agent.workers()
    for folder in scratch().values():
        (folder / "half a load").write_bytes(b"x")
    os.kill(one["pid"], signal.SIGKILL)
    wait_until(lambda: one["id"] not in scratch(), "removed when its worker has ended")
    wait_until(lambda: len(agent.workers()) == 2, "a spare again")
    third = next(worker for worker in agent.workers() if worker["id"] != other["id"])
    agent.kill_runtime()
    os.kill(third["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(third["pid"]), "killed while no runtime is there")
    agent.start_and_wait()
    assert third["id"] not in scratch()
    assert (scratch()[other["id"]] / "half a load").exists(), "the worker that was taken back keeps its own"


def test_children_end_themselves_when_nobody_comes_back(new_agent: NewAgent) -> None:
    agent = new_agent(limits={"orphan_s": 1.0}).start_and_wait()
    children = [pid for pid in agent.pids() if pid != agent.status()["processes"]["runtime"]]
    agent.kill_runtime()
    wait_until(lambda: not any(map(is_alive, children)), "all ended", 20)


def test_a_graceful_stop_leaves_no_process_behind(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    pids = agent.pids()
    agent.stop()
    assert not [pid for pid in pids if is_alive(pid)]
