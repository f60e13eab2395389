"""A device that fetches over HTTP and, when that is cut, over MQTT: real processes from the publisher to the answer."""

from __future__ import annotations

import sqlite3
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract import limits
from edge_agent.contract.manifest import chunk_lengths
from edge_agent.sync import http_source
from tests.harness.agent import wait_until
from tests.harness.fleet import Fleet
from tests.harness.proxy import Link
from tests.harness.releases import Releases
from tests.publishing import manifest_of

DEVICE = "device-1"
SLOW_BYTES_S = 2 * limits.MIB
ENGINE = {"engine": "numpy", "format": "holdfast-numpy", "program": "model.json", "parameters": "model.bin"}
WIDE = {**ENGINE, "rtol": 1e-2, "atol": 1.0}  # sums of 400,000 products come out differently with each order


@pytest.fixture
def large() -> Iterator[Releases]:
    """tiny 0.9.0 and 1.0.0, and 1.1.0 of 11 MB, for one fleet."""
    with tempfile.TemporaryDirectory(prefix="hf-http-") as folder:
        made = Releases(Path(folder))
        for version in ("0.9.0", "1.0.0"):
            made.publish(version)
        made.publish("1.1.0", hidden=400_000, engines=[WIDE])
        yield made


def served_bytes(fleet: Fleet, way: str) -> float:
    """How many bytes of parts the coordinator has sent this way."""
    with urllib.request.urlopen(f"{fleet.coordinator.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    start = f'holdfast_parts_served_bytes_total{{way="{way}"}} '
    return sum(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))


def test_a_release_comes_over_http_and_when_that_is_cut_the_rest_comes_over_mqtt(
    short_folder: Path, large: Releases
) -> None:
    with Fleet(short_folder, large, devices=0) as fleet:
        host, _, port = fleet.coordinator.http.rpartition(":")
        with Link((host, int(port))) as link:
            token_file = short_folder / "device.token"
            token_file.write_text(fleet.fleet("devices", "token", DEVICE).stdout)
            http = {"http": f"http://{link.address}", "http_token_file": str(token_file)}
            fleet.add_agent(DEVICE, sync=http).start().wait_serving()
            fleet.wait_device(DEVICE, lambda device: device["online"], "it is online")
            fleet.fleet_json("rollout", "start", "tiny", "--to", "1.0.0", "--wait", "60")
            fleet.wait_all_serve("1.0.0")
            assert served_bytes(fleet, "http") > 0
            assert served_bytes(fleet, "mqtt") == 0, "nothing was asked for over MQTT"

            link.bytes_per_s = SLOW_BYTES_S
            fleet.fleet_json("rollout", "start", "tiny", "--to", "1.1.0")
            wait_until(lambda: served_bytes(fleet, "http") > 4 * limits.MIB, "the download is under way")
            link.go_away()
            fleet.wait_all_serve("1.1.0")
            in_flight = http_source.AT_ONCE * limits.HTTP_PART_BYTES_MAX
            assert served_bytes(fleet, "mqtt") > limits.MIB
            chunks = chunks_of(large, "1.1.0")
            size = sum(chunks.values())
            wait_until(lambda: logged(fleet, set(chunks)) >= size - in_flight, "all but what was cut off is in the log")
            assert logged(fleet, set(chunks)) <= size + in_flight, "each byte once, and what was in flight"


def chunks_of(releases: Releases, version: str) -> dict[str, int]:
    """How long each chunk of this release is, by its hash."""
    entries = manifest_of(releases.all[version].bundle).files
    return {name: length for entry in entries for name, length in zip(entry.chunks, chunk_lengths(entry), strict=True)}


def logged(fleet: Fleet, chunks: set[str]) -> int:
    """The bytes of these chunks in the coordinator's log of served parts, whatever the way."""
    with sqlite3.connect(f"file:{fleet.coordinator.data / 'coordinator.db'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT name, length FROM served_parts WHERE device_id = ?", (DEVICE,)).fetchall()
    return sum(length for name, length in rows if name in chunks)
