"""100 MB over the line: how fast, against HTTP and against an import of the same bytes; a rollback of another model
meanwhile; and memory. The stage is `line_stage`'s.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import ballast, line_stage
from tests.bench.children import Child
from tests.bench.figures import Results
from tests.harness.agent import Agent, wait_until
from tests.harness.client import RecordingClient
from tests.harness.fleet import Fleet
from tests.harness.proxy import Link
from tests.harness.releases import Releases
from tests.tiny_model import write_tiny_model

GROUP = "100 MB"
MB = 1_000_000
PIECE_BYTES = 1 << 20
SLOW_BYTES_S = 1_000_000
SLOW_S = 3.0  # until the rate of a slow link has been measured, and the window follows it
TINY = ("0.9.0", "1.0.0")
NOWHERE = "127.0.0.1:1"


@dataclass
class Depot:
    """The fleet, its releases, and the published versions of the ballast with their files and digests."""

    folder: Path
    releases: Releases
    fleet: Fleet

    def __post_init__(self) -> None:
        publisher = self.releases.publisher
        publisher.pack(write_tiny_model(self.folder / "b0", name=ballast.NAME, version="0.9.0"))
        self._first = publisher.bundle(f"{ballast.NAME}@0.9.0", self.folder / "ballast.bundle")
        self._factory = self.folder / "ballast.factory"

    def device(self, name: str, *, broker: str | None = None, online: bool = True) -> Agent:
        """A device with both models, the small one and the ballast, started."""
        if not self._factory.exists():
            maker = Agent(self.folder / "maker", self.releases.root_file, models={ballast.NAME: {}})
            done = maker.cli("factory", str(self._first), "--out", str(self._factory))
            assert done.returncode == 0, done.stderr
        models = {ballast.NAME: {"factory": str(self._factory), "probation_s": 0.0}}
        return line_stage.start_device(self.fleet, name, broker=broker, models=models, online=online)

    def publish(self, number: int) -> tuple[str, Path]:
        """One more version of the ballast; its version and its folder."""
        version = f"1.{number}.0"
        folder = ballast.write_ballast(self.folder / version, version, number + 1)
        self.fleet.fleet_json("snapshot", "publish", str(folder), timeout_s=300.0)
        return version, folder

    def begin(self, version: str, device: str) -> tuple[str, float]:
        """Start the rollout to one device; digest, and the moment of acceptance in unix seconds."""
        with line_stage.api(self.fleet) as coordinator:
            told = coordinator.start_rollout(ballast.NAME, version, "all", [device]).document["rollout"]
        return told["digest"], told["created_unix_ms"] / 1e3


def measure(results: Results, folder: Path, *, rounds: int, rollbacks: int) -> None:
    """Everything about 100 MB; each part on devices of its own, so that what one keeps does not help another."""
    releases = Releases(folder / "releases")
    for version in TINY:
        releases.publish(version)
    fleet = Fleet(folder, releases, 0, factory=TINY[0], model={"probation_s": 0.0})
    try:
        depot = Depot(folder, releases, fleet)
        fleet.broker.start()
        fleet.start_coordinator()  # it has all that is packed: no device is ahead of it
        with results.measuring(f"{GROUP}: over the line, by HTTP, from a file; {rounds} rounds"):
            version = _rates(results, depot, rounds)
        with results.measuring(f"{GROUP}: rollbacks of another model meanwhile"):
            _rollbacks_meanwhile(results, depot, version, rollbacks)
    finally:
        fleet.stop()


def _rates(results: Results, depot: Depot, rounds: int) -> str:
    """Each round takes a new version over the line, from a file, and by HTTP; the last version."""
    device, alone = depot.device("device-1"), depot.device("device-2", broker=NOWHERE, online=False)
    results.add(GROUP, "PSS of sync: no broker yet", "MiB", line_stage.mib(line_stage.sync_pid(alone)))
    results.add(GROUP, "PSS of sync: idle, metadata refreshed", "MiB", line_stage.mib(line_stage.sync_pid(device)))
    results.add(
        GROUP, "PSS of coordinator: one device, nothing served", "MiB", line_stage.mib(depot.fleet.coordinator.pid)
    )
    version = ""
    for number in range(rounds):
        version, folder = depot.publish(number)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MB
        rate = _over_the_line(results, depot, device, version, size)
        bundle = depot.releases.publisher.bundle(f"{ballast.NAME}@{version}", depot.folder / f"{version}.bundle")
        took_s = _from_a_file(alone, bundle, depot)
        results.add(GROUP, "import of the same from a file", "MB/s", size / took_s, to="the line", other=rate)
        for name, took_s in _by_http(folder / "model.bin", depot.folder).items():
            results.add(
                GROUP, name, "MB/s", (folder / "model.bin").stat().st_size / MB / took_s, to="the line", other=rate
            )
        shutil.rmtree(folder)
        bundle.unlink()
    for agent in (device, alone):
        agent.stop()
    return version


def _over_the_line(results: Results, depot: Depot, device: Agent, version: str, size: float) -> float:
    """One download to a device that serves; MB/s from the first question to the last byte stored."""
    pids = {"sync": line_stage.sync_pid(device), "coordinator": depot.fleet.coordinator.pid}
    with line_stage.Scales(pids) as scales:
        digest, accepted_s = depot.begin(version, device.folder.name)
        line_stage.wait_serves(device, ballast.NAME, version)
    at = line_stage.moments(device, digest)
    steps = {
        "accepted to served": at["lifecycle_serving"] - accepted_s,
        "  until the device asks for the first chunk": at["offer_begun"] - accepted_s,
        "  fetch, verify, store": at["received"] - at["offer_begun"],
        "  verify what is stored, load, prove": at["lifecycle_serving"] - at["received"],
    }
    for name, took_s in steps.items():
        results.add(GROUP, name, "s", took_s)
    for name, pid in pids.items():
        results.add(GROUP, f"PSS of {name}: most during the download", "MiB", scales.peak[name])
        results.add(GROUP, f"PSS of {name}: afterwards", "MiB", line_stage.mib(pid))
    return results.add(GROUP, "the line: fetch, verify, store", "MB/s", size / steps["  fetch, verify, store"])


def _from_a_file(agent: Agent, bundle: Path, depot: Depot) -> float:
    """`edge-agent import` on a device without a line; seconds from the first chunk wanted to the last one stored."""
    done = agent.cli("import", str(bundle))
    assert done.returncode == 0, done.stderr
    digest = agent.model(ballast.NAME)["active"]["digest"]
    at = line_stage.moments(agent, digest)
    return at["received"] - at["offer_begun"]


def _by_http(file: Path, folder: Path) -> dict[str, float]:
    """Seconds of the same bytes over HTTP, each way once."""
    target = folder / "copied"
    took = {}
    with Child("tests.bench.copying", "serve", str(file.parent)) as server:
        url = f"http://127.0.0.1:{server.document()['port']}/{file.name}"
        for name, piece in (("HTTP, ranges of 1 MiB, fsync each", PIECE_BYTES), ("HTTP, one GET, one fsync", 0)):
            with Child("tests.bench.copying", "get", url, str(target), str(piece)) as client:
                took[name] = float(client.document()["seconds"])
            target.unlink()
        if shutil.which("curl"):
            began_s = time.monotonic()
            subprocess.run(["curl", "-sf", "-o", str(target), url], check=True, timeout=60)
            with target.open("rb") as stream:
                os.fsync(stream.fileno())
            took["curl, one fsync"] = time.monotonic() - began_s
            target.unlink()
    return took


def _rollbacks_meanwhile(results: Results, depot: Depot, version: str, times: int) -> None:
    """Back and forth between two versions of the small model: calm, during a download, during one on a slow link."""
    with Link(("127.0.0.1", depot.fleet.broker.port)) as link:
        calm = 0.0
        for name, broker in (("device-3", None), ("device-4", link.address)):
            device = depot.device(name, broker=broker)
            slow = broker is not None
            with RecordingClient(
                device.port(), "tiny", "x", depot.releases.inputs, depot.releases.references(),
                pause_s=line_stage.CLIENT_PAUSE_S,
            ) as client:  # fmt: skip
                done = depot.fleet.fleet("rollout", "start", "tiny", "--to", TINY[1], "--device", name, "--wait", "60")
                assert done.returncode == 0, done.stderr
                if not slow:
                    taken = [_one(depot, client, device, number) for number in range(times)]
                    for took_s in taken:
                        results.add(GROUP, "rollback of another model, calm: to first answer", "ms", took_s * 1e3)
                    calm = statistics.median(taken)
                link.bytes_per_s = SLOW_BYTES_S if slow else 0
                _during(results, depot, client, device, version, calm, times)
            assert client.failed == client.mismatches == 0, client.failures[:3]
            device.stop()


def _during(
    results: Results, depot: Depot, client: RecordingClient, device: Agent, version: str, calm_s: float, times: int
) -> None:
    """Rollbacks as long as the download lasts, `times` at most."""
    slow = device.folder.name == "device-4"
    digest, _ = depot.begin(version, device.folder.name)
    end_s = line_stage.until(SLOW_S if slow else 0.0)
    wait_until(lambda: "offer_begun" in line_stage.moments(device, digest), "it begins", 60.0)
    wait_until(lambda: time.monotonic() >= end_s, "the link is measured")
    where = "on a link of 1 MB/s" if slow else "of 100 MB"
    for number in range(times):
        took_s = _one(depot, client, device, number)
        if "received" in line_stage.moments(device, digest):
            break  # the download ended first: this one may have been calm
        name = f"rollback during a download {where}: to first answer"
        results.add(GROUP, name, "ms", took_s * 1e3, to="calm", other=calm_s * 1e3)


def _one(depot: Depot, client: RecordingClient, device: Agent, number: int) -> float:
    """Seconds from the acceptance to the first answer; returns once the next one can be compared."""
    version = TINY[number % 2]
    took = line_stage.roll_back(depot.fleet, {device.folder.name: client}, "tiny", version)
    line_stage.wait_serves(device, "tiny", version)
    return took[device.folder.name]
