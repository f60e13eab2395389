"""The first path through the coordinator: hello, a rollout, its parts, its reports."""

from __future__ import annotations

from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.transfer import Kind
from tests.cloud.conftest import NewDevice
from tests.cloud.town import Town
from tests.harness.releases import Releases


def test_a_device_says_hello_is_assigned_fetches_and_reports(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    release = published.all["1.2.0"]
    device = new_device(town, "d1")
    made = town.rollout("1.2.0")
    assert made["state"] == "running"
    assert made["devices"] == {"d1": "assigned"}
    assignment = device.wait_assignment("1.2.0")
    assert assignment.models["tiny"].digest == release.digest

    for name in ("timestamp.json", "1.root.json"):
        kept = published.publisher.repository.folder / "metadata" / name
        assert device.get_whole(Kind.METADATA, name) == kept.read_bytes()
    manifest = device.get_whole(Kind.MANIFEST, release.digest)
    assert sha256_hex(manifest) == release.digest
    for chunk in parse_manifest(manifest).chunk_hashes():
        assert sha256_hex(device.get_whole(Kind.CHUNK, chunk)) == chunk
    named = published.publisher.repository.folder / "coordinator.json"
    assert device.get_whole(Kind.COORDINATOR, "coordinator.json", 10) == named.read_bytes()

    device.reports(1, 2, 3)
    device.wait_ack(3)
    shown = town.ask("GET", "/v1/devices/d1")[1]
    assert [report["number"] for report in shown["reports"]] == [3, 2, 1]
