"""Parts: who may have what, damaged files, the log of what was served, and that nothing waits behind them."""

from __future__ import annotations

import sqlite3

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.contract import topics
from edge_agent.contract.canonical import encode
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.contract.transfer import Get, Kind
from tests.cloud.conftest import NewDevice
from tests.cloud.town import Town
from tests.harness.agent import wait_until
from tests.harness.line import manifest_raw
from tests.harness.releases import Releases


def manifest(published: Releases, version: str) -> Manifest:
    """The manifest of a version of tiny."""
    raw = (published.publisher.repository.folder / "manifests" / "tiny" / f"{version}.json").read_bytes()
    return parse_manifest(raw)


def test_a_device_gets_only_what_was_ever_assigned_to_it(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(town, "entitled")
    old, new = published.all["1.0.0"], published.all["1.1.0"]
    chunk = manifest(published, "1.0.0").chunk_hashes()[0]
    assert device.get(Kind.MANIFEST, old.digest)[0] == 403
    assert device.get(Kind.CHUNK, chunk)[0] == 403
    town.rollout("1.0.0", devices=["entitled"])
    device.wait_assignment("1.0.0")
    assert device.get(Kind.CHUNK, chunk)[0] == 200
    assert device.get(Kind.MANIFEST, new.digest)[0] == 403
    town.rollout("1.1.0", devices=["entitled"])
    device.wait_assignment("1.1.0")
    assert device.get(Kind.MANIFEST, new.digest)[0] == 200
    assert device.get(Kind.MANIFEST, old.digest)[0] == 200, "what it had before is repaired from here"
    stranger = new_device(town, "stranger")
    assert stranger.get(Kind.CHUNK, chunk)[0] == 403
    assert stranger.get(Kind.METADATA, "timestamp.json")[0] == 200
    assert stranger.get(Kind.COORDINATOR, "coordinator.json")[0] == 200


def test_what_is_asked_wrongly_is_answered_with_its_status(
    town: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(town, "asks")
    assert device.get(Kind.METADATA, "99.root.json")[0] == 404
    size = len((published.publisher.repository.folder / "metadata" / "timestamp.json").read_bytes())
    assert device.get(Kind.METADATA, "timestamp.json", size)[0] == 416
    status, total, content = device.get(Kind.METADATA, "timestamp.json", size - 3)
    assert (status, total, len(content)) == (200, size, 3)
    assert device.get_raw(b"{}")[0] == 400
    assert device.get_raw(encode(Get(Kind.METADATA, "../../token", 0, 10)))[0] == 400
    assert device.get(Kind.CHUNK, "f" * 64)[0] == 403


def test_every_served_part_is_in_the_log_and_no_other(town: Town, new_device: NewDevice, published: Releases) -> None:
    device = new_device(town, "logged")
    town.rollout("1.2.0", devices=["logged"])
    device.wait_assignment("1.2.0")
    chunk = manifest(published, "1.2.0").file("model.bin").chunks[0]
    device.get_whole(Kind.CHUNK, chunk, 1 << 18)
    device.get(Kind.CHUNK, "e" * 64)

    def logged() -> list[tuple[str, int, int]]:
        with sqlite3.connect(f"file:{town.data / 'coordinator.db'}?mode=ro", uri=True) as database:
            return database.execute(
                'SELECT name, "offset", length FROM served_parts WHERE device_id = ? ORDER BY "offset"', ("logged",)
            ).fetchall()

    found = wait_until(lambda: len(logged()) >= 4 and logged(), "they are written")
    assert found == [(chunk, at, 1 << 18) for at in range(0, 1 << 20, 1 << 18)]


def test_an_assignment_does_not_wait_behind_a_download(town: Town, new_device: NewDevice, published: Releases) -> None:
    busy = new_device(town, "busy")
    town.rollout("1.2.0", devices=["busy"])
    busy.wait_assignment("1.2.0")
    chunk = manifest(published, "1.2.0").file("model.bin").chunks[0]
    for number in range(60):
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = f"flood-{number}".encode()
        busy.say(topics.GET, Get(Kind.CHUNK, chunk, 0, 1 << 18), properties)
    town.rollout("1.1.0", devices=["busy"])
    busy.wait_assignment("1.1.0")
    wait_until(lambda: busy.heard["got"].qsize() >= 60, "all parts come in the end")


def test_a_damaged_or_missing_chunk_is_never_served_and_the_next_upload_brings_it_again(
    own: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(own, "d1")
    own.rollout("1.0.0")
    device.wait_assignment("1.0.0")
    damaged, missing = manifest(published, "1.0.0").chunk_hashes()[:2]
    kept = own.data / "repository" / "chunks"
    whole = (kept / damaged).read_bytes()
    (kept / damaged).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    (kept / missing).unlink()
    assert device.get(Kind.CHUNK, damaged) == (503, 0, b"")
    assert device.get(Kind.CHUNK, missing)[0] == 404
    own.upload()
    assert device.get_whole(Kind.CHUNK, damaged) == whole
    assert device.get(Kind.CHUNK, missing)[0] == 200


def test_a_manifest_damaged_on_the_disk_is_not_served_and_the_next_upload_brings_it_again(
    own: Town, new_device: NewDevice, published: Releases
) -> None:
    device = new_device(own, "d1")
    own.rollout("1.0.0")
    device.wait_assignment("1.0.0")
    path = own.data / "repository" / "manifests" / "tiny" / "1.0.0.json"
    whole = path.read_bytes()
    path.write_bytes(manifest_raw(published.publisher, published.all["1.1.0"]))
    assert device.get(Kind.MANIFEST, published.all["1.0.0"].digest)[0] == 503
    own.upload()
    assert device.get_whole(Kind.MANIFEST, published.all["1.0.0"].digest) == whole
