"""What operators and publishers send over HTTP: who may, what counts, and what is refused with which status."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import read_published
from edge_agent.contract.evidence import Evidence, encode_evidence
from edge_agent.contract.manifest import parse_manifest
from tests.cloud.conftest import NewDevice
from tests.cloud.town import Town
from tests.harness.releases import Releases
from tests.publishing import Publisher
from tests.tiny_model import write_tiny_model


def evidence_of(publisher: Publisher) -> Evidence:
    """The signed files of a publisher, as they are now."""
    evidence = read_published(Repository(publisher.repository.folder)).evidence
    assert evidence is not None
    return evidence


def send(town: Town, method: str, path: str, raw: bytes) -> tuple[int, dict[str, Any]]:
    """Raw bytes with the operator's token: status and document."""
    status, answer = town.raw(method, path, raw, town.authorized())
    return status, json.loads(answer)


def send_metadata(town: Town, evidence: Evidence) -> tuple[int, dict[str, Any]]:
    """Metadata, as it is."""
    return send(town, "POST", "/v1/repository/metadata", encode_evidence(evidence))


@pytest.fixture
def fresh(idle: Town, tmp_path: Path) -> Town:
    """A coordinator with a publisher of its own, with one snapshot; nothing is uploaded."""
    idle.publisher = Publisher(tmp_path / "publisher")
    (idle.data / "1.root.json").write_bytes(idle.publisher.pinned)
    idle.publisher.publish_unproven(write_tiny_model(tmp_path / "model"))
    idle.restart()
    return idle


def test_only_the_operator_may_ask(town: Town) -> None:
    no_utf8 = {"Authorization": "Bearer \xff\xfe"}
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": town.token_file.read_text().strip()},
        no_utf8,
    ):
        status, raw = town.raw("GET", "/v1/devices", headers=headers)
        assert (status, json.loads(raw)["reason"]) == (401, "not_authorized")
    assert town.raw("GET", "/health")[0] == 200
    assert town.raw("GET", "/metrics")[0] == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"model":"tiny"}', b'{"model":"tiny","version":"1.0.0","x":1}'])
def test_a_malformed_body_is_refused_with_the_place(town: Town, raw: bytes) -> None:
    status, document = send(town, "POST", "/v1/rollouts", raw)
    assert (status, document["reason"], document["ok"]) == (400, "malformed", False)
    assert document["next_step"]


def test_what_is_larger_than_it_can_be_is_refused(town: Town) -> None:
    assert send(town, "PUT", f"/v1/repository/chunks/{'a' * 64}", b"x" * (2**20 + 1))[0] == 413
    assert send(town, "POST", "/v1/rollouts", b" " * (3 * 2**20))[0] == 413
    assert send(town, "PUT", "/v1/repository/coordinator", b"x" * 5_000)[0] == 413
    assert send(town, "GET", "/v1/nothing", b"")[0] == 404
    assert send(town, "DELETE", "/v1/devices", b"")[0] == 405


def test_chunks_are_kept_by_their_hash_alone(town: Town) -> None:
    content = b"a chunk that nobody names"
    sha256 = hashlib.sha256(content).hexdigest()
    status, refused = send(town, "PUT", f"/v1/repository/chunks/{'b' * 64}", content)
    assert (status, refused["reason"]) == (400, "chunk_mismatch")
    wish = {"chunks": [sha256, "b" * 64]}
    assert town.ask("POST", "/v1/repository/missing", wish)[1] == {"missing": [sha256, "b" * 64]}
    assert send(town, "PUT", f"/v1/repository/chunks/{sha256}", content)[0] == 200
    assert town.ask("POST", "/v1/repository/missing", wish)[1] == {"missing": ["b" * 64]}


def test_metadata_counts_only_once_all_that_it_names_is_there(fresh: Town) -> None:
    publisher = fresh.publisher
    assert "names no coordinator" in (fresh.health_or_none() or {})["planning"]["stopped"]
    status, refused = send_metadata(fresh, evidence_of(publisher))
    assert (status, "manifests/tiny/1.0.0.json" in refused["message"]) == (409, True)
    raw = (publisher.repository.folder / "manifests" / "tiny" / "1.0.0.json").read_bytes()
    assert send(fresh, "PUT", "/v1/repository/manifests/tiny/1.0.1", raw)[0] == 400
    assert send(fresh, "PUT", "/v1/repository/manifests/tiny/1.0.0", raw)[0] == 200
    status, refused = send_metadata(fresh, evidence_of(publisher))
    assert (status, "chunks/" in refused["message"]) == (409, True)
    assert fresh.ask("GET", "/v1/snapshots")[1]["snapshots"] == []
    for sha256 in parse_manifest(raw).chunk_hashes():
        content = (publisher.repository.folder / "chunks" / sha256).read_bytes()
        assert send(fresh, "PUT", f"/v1/repository/chunks/{sha256}", content)[0] == 200
    assert send_metadata(fresh, evidence_of(publisher)) == (200, {"snapshots": 1})
    shown = fresh.ask("GET", "/v1/snapshots")[1]["snapshots"][0]
    assert (shown["name"], shown["version"], shown["release"]) == ("tiny", "1.0.0", 1)
    assert shown["bytes"] == sum(entry.length for entry in parse_manifest(raw).files)


def test_older_foreign_and_forged_metadata_is_refused_and_changes_nothing(fresh: Town, tmp_path: Path) -> None:
    old = evidence_of(fresh.publisher)
    fresh.publish()
    before = fresh.ask("GET", "/v1/snapshots")[1]
    status, refused = send_metadata(fresh, old)
    assert (status, refused["reason"]) == (409, "metadata_rollback")
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish_unproven(write_tiny_model(tmp_path / "stranger-model"))
    assert send_metadata(fresh, evidence_of(stranger))[0] == 400
    present = evidence_of(fresh.publisher)
    frame = msgspec.json.decode(present.timestamp)
    digits = frame["signatures"][0]["sig"]
    frame["signatures"][0]["sig"] = ("0" if digits[0] != "0" else "1") + digits[1:]
    flipped = msgspec.json.encode(frame)
    status, refused = send_metadata(fresh, msgspec.structs.replace(present, timestamp=flipped))
    assert (status, refused["reason"]) == (400, "signature")
    assert send(fresh, "POST", "/v1/repository/metadata", b"rubbish")[1]["reason"] == "malformed"
    assert fresh.ask("GET", "/v1/snapshots")[1] == before


def test_a_version_never_changes_its_bytes(fresh: Town, tmp_path: Path) -> None:
    fresh.publish()
    other = Publisher(tmp_path / "other")
    other.publish_unproven(write_tiny_model(tmp_path / "other-model", seed=9))
    raw = (other.repository.folder / "manifests" / "tiny" / "1.0.0.json").read_bytes()
    status, refused = send(fresh, "PUT", "/v1/repository/manifests/tiny/1.0.0", raw)
    assert (status, refused["reason"]) == (409, "version_conflict")


def test_planning_begins_once_the_publisher_names_this_coordinator_and_ends_when_another_is_named(
    fresh: Town, new_device: NewDevice
) -> None:
    fresh.upload()
    new_device(fresh, "d1")
    wish = {"model": "tiny", "version": "1.0.0"}
    status, refused = fresh.ask("POST", "/v1/rollouts", wish)
    assert (status, refused["reason"]) == (503, "not_authorized")
    assert "fleet coordinator authorize" in refused["next_step"]
    fresh.publish()
    assert (fresh.health_or_none() or {})["planning"]["stopped"] is None
    fresh.rollout("1.0.0")
    fresh.publisher.authorize_coordinator("ab" * 32)
    fresh.upload()
    assert "another coordinator" in (fresh.health_or_none() or {})["planning"]["stopped"]
    assert fresh.ask("POST", "/v1/rollouts", wish)[0] == 503


def test_a_higher_epoch_makes_every_assignment_anew(fresh: Town, new_device: NewDevice) -> None:
    fresh.publish()
    device = new_device(fresh, "d1")
    fresh.rollout("1.0.0")
    first = device.wait_assignment("1.0.0")
    fresh.publisher.authorize_coordinator("ab" * 32)
    fresh.publish()
    second = device.wait_assignment("1.0.0")
    assert second.epoch > first.epoch


def test_a_damaged_repository_is_told_and_an_upload_mends_it(own: Town, published: Releases) -> None:
    own.stop()
    (own.data / "repository" / "metadata" / "timestamp.json").write_bytes(b"{}")
    own.restart()
    assert "names no coordinator" in (own.health_or_none() or {})["planning"]["stopped"]
    own.upload()
    assert (own.health_or_none() or {})["planning"]["stopped"] is None
    assert len(own.ask("GET", "/v1/snapshots")[1]["snapshots"]) == len(published.all) + 1
