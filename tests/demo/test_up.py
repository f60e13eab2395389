"""`make up` and `make down` as scripts use them: the document, what it points to, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.folders import run_folders
from tests.demo.running import Process, Running
from tests.harness.agent import ROOT, ShortFolder, children_of, wait_until
from tests.harness.client import ask
from tests.harness.processes import is_alive, started_at

DEVICES = 2
UP_S = 240


class Made:
    """`make up` and `make down` with another folder than .run."""

    def __init__(self, run: Path) -> None:
        self.run_folder = run

    def make(self, what: str) -> subprocess.CompletedProcess[str]:
        """What the Makefile runs."""
        command = [
            sys.executable,
            "-m",
            "tests.demo.up",
            what,
            "--run",
            str(self.run_folder),
            "--devices",
            f"{DEVICES}",
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=UP_S, check=False)

    def document(self) -> dict[str, Any]:
        """fleet.json."""
        document: dict[str, Any] = json.loads((self.run_folder / "fleet.json").read_text())
        return document

    def children(self) -> set[int]:
        """Fronts, workers and sync processes of all its devices."""
        return {pid for agent in self.document()["agents"] for pid in children_of(Path(agent["state_dir"]))}


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    """It is up."""
    with ShortFolder() as folder:
        made = Made(folder / "run")
        try:
            done = made.make("up")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == made.document()
            yield made
        finally:
            made.make("down")


def pids_of(document: dict[str, Any]) -> list[int]:
    return [*(agent["pid"] for agent in document["agents"]), document["coordinator"]["pid"], document["broker"]["pid"]]


def test_the_document_says_where_everything_is(made: Made) -> None:
    document = made.document()
    assert set(document) == {"agents", "coordinator", "broker", "env", "heldout"}
    assert [set(agent) for agent in document["agents"]] == [
        {"device_id", "http", "grpc", "state_dir", "config", "pid"}
    ] * DEVICES
    assert set(document["coordinator"]) == {"url", "pid"} and set(document["broker"]) == {"host", "port", "pid"}
    assert all(is_alive(pid) for pid in pids_of(document))
    files = [agent[key] for agent in document["agents"] for key in ("state_dir", "config")]
    files += [document["heldout"]["inputs"], document["heldout"]["labels"], *document["heldout"]["expected"].values()]
    assert all(Path(file).is_absolute() and Path(file).exists() for file in files)
    assert list(document["heldout"]["expected"]) == ["0.9.0", "1.0.0", "1.1.0"]


def test_each_device_answers_as_its_factory_snapshot_does(made: Made) -> None:
    document = made.document()
    pictures, expected = (np.load(document["heldout"]["inputs"]), np.load(document["heldout"]["expected"]["0.9.0"]))
    for agent in document["agents"]:
        with contextlib.closing(http.client.HTTPConnection(agent["http"], timeout=30)) as connection:
            answer = ask(connection, "digits", "image", pictures[:1])
        assert answer.version == "0.9.0" and answer.output is not None
        assert np.allclose(answer.output, expected[0].ravel(), rtol=1e-4, atol=1e-4)


def test_fleet_steers_it_with_the_environment_alone(made: Made) -> None:
    command = [sys.executable, "-m", "cloud_sync.operator_cli", "devices", "list", "--json"]
    environment = {"PATH": os.environ["PATH"], **made.document()["env"]}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)["devices"]
    assert [device["device_id"] for device in listed] == [agent["device_id"] for agent in made.document()["agents"]]
    assert all(device["online"] for device in listed)


def test_a_second_make_up_says_that_it_is_up(made: Made) -> None:
    before = made.document()
    done = made.make("up")
    assert done.returncode == 0 and "up already" in done.stderr
    assert json.loads(done.stdout) == before == made.document()


def test_down_ends_everything_also_after_half_of_it_crashed(made: Made) -> None:
    document = made.document()
    state_dirs = [Path(agent["state_dir"]) for agent in document["agents"]]
    children = made.children()
    assert len(children) >= 3 * DEVICES
    os.kill(document["agents"][0]["pid"], signal.SIGKILL)
    os.kill(document["coordinator"]["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(document["coordinator"]["pid"]), "it is gone")
    refused = made.make("up")
    assert refused.returncode == 1 and "make down" in refused.stderr
    done = made.make("down")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not any(is_alive(pid) for pid in {*pids_of(document), *children}), "nothing is left")
    assert not any(children_of(state_dir) for state_dir in state_dirs)
    assert not any(folder.exists() for state_dir in state_dirs for folder in run_folders(state_dir))
    assert not (made.run_folder / "fleet.json").exists()
    assert "nothing was up" in made.make("down").stderr


def test_a_process_that_took_an_old_id_is_left_alone(tmp_path: Path) -> None:
    running = Running(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as innocent, subprocess.Popen(["cat"], stdin=-1) as ours:
        running.note("broker", ours.pid)
        noted = [*running.processes(), Process("coordinator", innocent.pid, "another boot+1")]
        (tmp_path / "processes.json").write_text(json.dumps([vars_of(process) for process in noted]))
        assert running.end() == ["broker"]
        assert ours.wait(10) == -signal.SIGTERM
        assert is_alive(innocent.pid)
        innocent.kill()


def test_a_start_is_told_from_a_later_one_with_the_same_id() -> None:
    assert started_at(os.getpid()) == started_at(os.getpid()) != started_at(1)
    assert started_at(2**30) == ""


def vars_of(process: Process) -> dict[str, Any]:
    return {"what": process.what, "pid": process.pid, "started": process.started}
