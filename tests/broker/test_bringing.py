"""The set-up's way to a broker on machines that have one, have an old one, or have none and no packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.agent import ROOT

TOOLS = (
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "mkdir",
    "printf",
    "readlink",
    "rm",
    "sed",
    "sha256sum",
    "tail",
    "touch",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of packaging/ for a machine without apt-get; its PATH has the folder `bin` alone."""
    shutil.copytree(ROOT / "packaging", tmp_path / "packaging")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def run(project: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(project / "bin" / "bash"), str(project / "packaging" / "broker" / script), *arguments]
    surroundings = {"PATH": str(project / "bin"), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=surroundings)


def program(path: Path, says: str) -> str:
    """A program that says which version of mosquitto it is."""
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit 3\n")
    path.chmod(0o755)
    return str(path)


def test_without_any_broker_the_set_up_says_what_to_install(project: Path) -> None:
    done = run(project, "bring.sh", HOLDFAST_MOSQUITTO=str(project / "none"))
    assert done.returncode == 1
    assert "no mosquitto 2" in done.stderr and "apt-get install mosquitto" in done.stderr
    assert not (project / ".broker").exists()


def test_without_any_broker_starting_one_says_the_same(project: Path) -> None:
    folder = project / "folder"
    done = run(project, "broker.sh", "start", str(folder), "127.0.0.1:0", HOLDFAST_MOSQUITTO=str(project / "none"))
    assert done.returncode == 1
    assert "no mosquitto 2" in done.stderr and "next step: Install it" in done.stderr
    assert not folder.exists()


def test_a_broker_that_is_there_is_used_and_nothing_is_brought(project: Path) -> None:
    program(project / "bin" / "mosquitto", "mosquitto version 2.0.18")
    done = run(project, "bring.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (project / ".broker").exists()


def test_an_old_broker_does_not_count(project: Path) -> None:
    old = program(project / "bin" / "mosquitto", "mosquitto version 1.6.12")
    assert run(project, "bring.sh", HOLDFAST_MOSQUITTO=old).returncode == 1


def test_what_an_unfinished_set_up_left_behind_does_not_count(project: Path) -> None:
    (project / ".broker").mkdir()
    half = program(project / ".broker" / "mosquitto", "mosquitto version 2.0.11")
    assert run(project, "bring.sh", HOLDFAST_MOSQUITTO=half).returncode == 1
    assert not Path(half).exists()


@pytest.mark.parametrize("arguments", [(), ("start", "x"), ("start", "x", "1883"), ("start", "x", "h:1", "--tls"),
                                       ("user", "x")])  # fmt: skip
def test_wrong_usage_shows_the_usage(project: Path, arguments: tuple[str, ...]) -> None:
    done = run(project, "broker.sh", *arguments)
    assert done.returncode == 2 and "broker.sh start FOLDER HOST:PORT" in done.stderr


@pytest.mark.parametrize("name", ["d/1", "d+", "#", "a:b", "", "x" * 65])
def test_a_name_that_would_reach_beyond_its_topics_is_refused(project: Path, name: str) -> None:
    done = run(project, "broker.sh", "user", str(project / "folder"), name, HOLDFAST_MOSQUITTO=os.devnull)
    assert done.returncode == 1 and "no device id" in done.stderr
