"""Naming the coordinator: signed like a snapshot, the epoch only grows, and it is no snapshot to anybody."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud_sync.publish.coordinator import read_coordinator, read_public_key
from cloud_sync.publish.pack import published_snapshots
from cloud_sync.publish.signing import Published, read_published
from edge_agent.contract.envelope import COORDINATOR_TARGET_PATH, CoordinatorKey, parse_coordinator_key
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected
from edge_agent.contract.reasons import Reason
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.trust.chain import verify_offer
from edge_agent.trust.verified import DeviceProfile, TufVersions
from tests.publish.test_tuf_client import FILES, updater
from tests.publishing import Publisher
from tests.samples import a_manifest

ONE, TWO = "11" * 32, "22" * 32


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "publisher")


def published(publisher: Publisher) -> Published:
    return read_published(publisher.repository, publisher.pinned)


def named(publisher: Publisher) -> CoordinatorKey:
    raw = read_coordinator(publisher.repository, published(publisher))
    assert raw is not None
    return parse_coordinator_key(raw)


def test_the_first_coordinator_is_named_in_a_repository_that_has_nothing_yet(
    publisher: Publisher, tmp_path: Path
) -> None:
    done = publisher.authorize_coordinator(ONE)
    assert not done.unchanged and done.key == CoordinatorKey(1, ONE) == named(publisher)
    assert read_published(publisher.repository).versions["targets"] == 1  # its root file is there too
    client = updater(publisher, tmp_path / "client")
    target = client.get_targetinfo(COORDINATOR_TARGET_PATH)
    assert target is not None
    assert parse_coordinator_key(Path(client.download_target(target)).read_bytes()) == done.key
    assert publisher.publish_manifest(a_manifest(), FILES) == "tiny@1.0.0"
    assert named(publisher) == done.key


def test_naming_the_same_coordinator_again_signs_nothing(publisher: Publisher) -> None:
    first = publisher.authorize_coordinator(ONE)
    again = publisher.authorize_coordinator(ONE)
    assert again.unchanged and again.key == first.key
    assert again.versions["timestamp"] == published(publisher).versions["timestamp"] == 1


def test_each_other_coordinator_gets_a_higher_epoch_also_one_that_was_named_before(publisher: Publisher) -> None:
    epochs = [publisher.authorize_coordinator(key).key.epoch for key in (ONE, TWO, ONE)]
    assert epochs == [1, 2, 3] and named(publisher) == CoordinatorKey(3, ONE)


def test_a_named_coordinator_is_no_snapshot(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish_manifest(a_manifest(), FILES)
    publisher.authorize_coordinator(ONE)
    found = published_snapshots(publisher.repository, published(publisher))
    assert [snapshot.manifest.label() for snapshot in found] == ["tiny@1.0.0"]
    with BundleReader(publisher.bundle("tiny@1.0.0", tmp_path / "b")) as reader:
        verified = verify_offer(
            reader.evidence,
            reader.manifest_raw,
            pinned_root=publisher.pinned,
            now=datetime.now(UTC),
            seen=TufVersions(),
            device=DeviceProfile("x86_64", ("numpy",), frozenset({"tiny"})),
        )
    assert verified.manifest == a_manifest()


def test_an_authorisation_that_could_not_be_signed_leaves_the_coordinator_that_was_named(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.authorize_coordinator(ONE)
    key = publisher.keys / "timestamp.pem"
    key.rename(tmp_path / "aside")
    with pytest.raises(Rejected, match="cannot be read"):
        publisher.authorize_coordinator(TWO)
    assert named(publisher) == CoordinatorKey(1, ONE)
    (tmp_path / "aside").rename(key)
    assert publisher.authorize_coordinator(TWO).key.epoch == 2


def test_power_that_goes_after_the_signature_loses_neither_key_nor_epoch(publisher: Publisher) -> None:
    publisher.authorize_coordinator(ONE)
    path = publisher.repository.folder / COORDINATOR_TARGET_PATH
    before = path.read_bytes()
    publisher.authorize_coordinator(TWO)
    path.rename(path.with_name("coordinator.next.json"))  # as the folder is before the last step
    path.write_bytes(before)
    assert named(publisher) == CoordinatorKey(2, TWO)
    assert publisher.authorize_coordinator(TWO).unchanged
    assert parse_coordinator_key(path.read_bytes()) == CoordinatorKey(2, TWO)
    assert not path.with_name("coordinator.next.json").exists()


def test_a_coordinator_file_that_somebody_changed_is_found_and_no_epoch_is_guessed(publisher: Publisher) -> None:
    publisher.authorize_coordinator(ONE)
    path = publisher.repository.folder / COORDINATOR_TARGET_PATH
    path.write_bytes(path.read_bytes().replace(b"1111", b"2222"))
    with pytest.raises(Corrupt, match="missing or damaged"):
        publisher.authorize_coordinator(TWO)
    path.unlink()
    with pytest.raises(Corrupt, match="missing or damaged"):
        named(publisher)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"11" * 31, b"11" * 33, b"zz" * 32, b"AA" * 32, b"11" * 32 + b"\n\n", b" " + b"11" * 32,
     b"-----BEGIN PRIVATE KEY-----\n", bytes(32), b"\xff" * 5000],
)  # fmt: skip
def test_a_file_that_is_no_public_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "coordinator.pub"
    path.write_bytes(content)
    with pytest.raises(Rejected) as caught:
        read_public_key(path)
    assert caught.value.reason is Reason.MALFORMED and "coordinator.pub" in caught.value.next_step


def test_a_public_key_is_read_with_or_without_its_newline_and_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.pub"
    for content in (ONE, f"{ONE}\n"):
        path.write_text(content)
        assert read_public_key(path) == ONE
    with pytest.raises(HoldfastError, match="cannot be read"):
        read_public_key(tmp_path / "missing")


def test_what_is_no_key_is_not_signed(publisher: Publisher) -> None:
    with pytest.raises(Rejected):
        publisher.authorize_coordinator("not a key")
    assert not publisher.repository.folder.exists()
