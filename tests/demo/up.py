"""`make up` and `make down`: a fleet of devices that runs on in the background. Its parts are the harness's.

.run/fleet.json says where everything is; logs and state are below .run/fleet/, made anew by each `make up`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests import models_cache
from tests.demo.running import Running
from tests.harness.agent import ROOT, Agent
from tests.harness.broker import HOST
from tests.harness.fleet import Fleet
from tests.harness.releases import DigitsReleases

RECIPE = "digits_lenet"
VERSIONS = ("0.9.0", "1.0.0", "1.1.0")  # the first is what every device left the factory with
DEVICES = 3
PROBATION_S = 5.0  # short: whoever plays with it wants to see the end of a rollout
SCRUB = {"interval_s": 5.0, "chunks_per_s": 200}  # short, for the same reason
LIMITS = {"orphan_s": 120.0}


def say(text: str) -> None:
    """To people; stdout is for the document."""
    print(f"fleet: {text}", file=sys.stderr, flush=True)


class Place:
    """Where the fleet of this project folder is kept."""

    def __init__(self, run: Path) -> None:
        self.document = run / "fleet.json"
        self.folder = run / "fleet"
        self.running = Running(self.folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One `make up` or `make down` at a time."""
        self.document.parent.mkdir(parents=True, exist_ok=True)
        with self.document.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def up(place: Place, devices: int = DEVICES) -> int:
    """Start the fleet; says so if it is up already. 1: a part of an earlier one has ended, or is left over."""
    noted = place.running.processes()
    ended = [process.what for process in noted if not process.lives()]
    if noted and not ended and place.document.exists():
        say(f"it is up already: {place.document}")
        print(place.document.read_text())
        return 0
    if noted:
        why = f"ended: {', '.join(ended)}" if ended else "the last make up was cut off"
        say(f"there is a fleet that is not whole ({why})")
        say("next step: make down, then make up")
        return 1
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    try:
        document = _start(place, devices)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        say(f"it did not come up, and what was started is ended: {error}")
        say(f"next step: see the logs below {place.folder}")
        return 1
    made = place.document.with_suffix(".new")
    made.write_text(json.dumps(document, indent=2) + "\n")
    made.rename(place.document)
    print(place.document.read_text())
    say(f"it is up: {place.document}; logs are below {place.folder}; `make down` ends it")
    settings = " ".join(f"{name}={value}" for name, value in document["env"].items())
    say("to steer it, in this folder:")
    say(f'  export PATH="{ROOT}/.venv/bin:$PATH" {settings}')
    say("  fleet devices list")
    say(f"  fleet rollout start digits --to {VERSIONS[1]} --wait 60")
    say(f"  edge-agent status --config {document['agents'][0]['config']}")
    return 0


def _start(place: Place, devices: int) -> dict[str, Any]:
    """Everything, or nothing: when a step fails, what was started is ended."""
    say(f"{RECIPE} {', '.join(VERSIONS)}: train what is not in .cache, prove, sign")
    models_cache.make_all([models_cache.Recipe(RECIPE, version) for version in VERSIONS])
    releases = DigitsReleases(place.folder)
    for version in VERSIONS:
        releases.publish(version)
    fleet = Fleet(
        place.folder,
        releases,
        devices,
        factory=VERSIONS[0],
        model={"probation_s": PROBATION_S},
        detached=True,
        begun=place.running.note,
        scrub=SCRUB,
        limits=LIMITS,
    )
    say(f"broker, coordinator, {devices} devices")
    try:
        fleet.start()
        return describe(fleet, _heldout(place.folder))
    except BaseException:
        fleet.stop()
        place.running.end()
        raise


def describe(fleet: Fleet, heldout: dict[str, Any]) -> dict[str, Any]:
    """The document whose shape stays."""
    return {
        "agents": [_agent(agent) for agent in fleet.agents],
        "coordinator": {"url": fleet.coordinator.url, "pid": fleet.coordinator.pid},
        "broker": {"host": HOST, "port": fleet.broker.port, "pid": fleet.broker.pid},
        "env": fleet.environment,
        "heldout": heldout,
    }


def _agent(agent: Agent) -> dict[str, Any]:
    status = agent.status()
    return {
        "device_id": status["device_id"],
        "http": status["http"],
        "grpc": None,
        "state_dir": str(agent.state_dir),
        "config": str(agent.config_file),
        "pid": agent.pid,
    }


def _heldout(folder: Path) -> dict[str, Any]:
    """Copies: the cache may be emptied while the fleet runs. Expected answers are (pictures, 10), as one request for
    all pictures is answered.
    """
    pictures = models_cache.heldout(RECIPE, *VERSIONS)
    into = folder / "heldout"
    into.mkdir()

    def copy(file: Path) -> str:
        return str(shutil.copy(file, into / file.name))

    def answers(version: str, file: Path) -> str:
        expected = np.load(file)
        np.save(into / file.name, expected.reshape(len(expected), -1))
        return str(into / file.name)

    return {
        "inputs": copy(pictures.inputs),
        "labels": copy(pictures.labels),
        "expected": {version: answers(version, file) for version, file in pictures.expected.items()},
    }


def down(place: Place) -> int:
    """End the fleet, whatever is left of it."""
    ended = place.running.end()
    place.document.unlink(missing_ok=True)
    say(f"ended: {', '.join(ended)}" if ended else "nothing was up")
    return 0


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo.up", description=__doc__)
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--run", type=Path, default=ROOT / ".run", help="where fleet.json and the fleet's folder are")
    parser.add_argument("--devices", type=int, default=DEVICES, help="how many (default: %(default)s)")
    options = parser.parse_args()
    place = Place(options.run.resolve())
    try:
        with place.alone():
            return up(place, options.devices) if options.what == "up" else down(place)
    except KeyboardInterrupt:
        say("interrupted; what this call had started is ended")
        return 130


if __name__ == "__main__":
    sys.exit(main())
