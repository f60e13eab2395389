"""Bundles end to end: what the publisher writes a device admits, and each wrong bundle is refused by its own word."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud_sync.publish.bundle import write_bundle
from cloud_sync.publish.repository import Repository
from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import FileEntry
from edge_agent.contract.reasons import Reason
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.trust.chain import verify_admitted, verify_offer
from edge_agent.trust.verified import DeviceProfile, TufVersions, VerifiedManifest
from tests import publishing
from tests.publishing import Publisher
from tests.samples import a_manifest, file_entry

DEVICE = DeviceProfile("x86_64", ("numpy",), frozenset({"tiny"}))
FILES = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def good(publisher: Publisher, tmp_path: Path) -> Path:
    publisher.publish_manifest(a_manifest(), FILES)
    return publisher.bundle("tiny@1.0.0", tmp_path / "good.bundle")


def admit(bundle: Path, pinned: bytes, *, now: datetime | None = None) -> VerifiedManifest:
    """What a device does with a bundle: verify, then compare every chunk with the manifest."""
    with BundleReader(bundle) as reader:
        verified = verify_offer(
            reader.evidence,
            reader.manifest_raw,
            pinned_root=pinned,
            now=now or datetime.now(UTC),
            seen=TufVersions(),
            device=DEVICE,
        )
        for entry in verified.manifest.files:
            for sha256 in entry.chunks:
                if sha256_hex(reader.chunk(sha256)) != sha256:
                    raise Rejected("a chunk is another one", reason=Reason.CHUNK_MISMATCH)
        return verified


def test_the_same_snapshot_gives_the_same_bundle(publisher: Publisher, good: Path, tmp_path: Path) -> None:
    assert admit(good, publisher.pinned).manifest == a_manifest()
    assert publisher.bundle("tiny@1.0.0", tmp_path / "again").read_bytes() == good.read_bytes()


Craft = Callable[[Publisher, Path, Path], Path]
HOSTILE: dict[str, tuple[Craft, Reason]] = {
    "timestamp's signature flipped": (
        lambda _, good, out: publishing.signature_flipped(good, out),
        Reason.SIGNATURE,
    ),
    "targets' signature flipped": (
        lambda _, good, out: publishing.signature_flipped(good, out, "metadata/targets.json"),
        Reason.SIGNATURE,
    ),
    "signed by someone else": (lambda _, good, out: publishing.signed_by_stranger(good, out), Reason.SIGNATURE),
    "manifest changed": (lambda _, good, out: publishing.manifest_changed(good, out), Reason.SIGNATURE),
    "chunk replaced": (lambda _, good, out: publishing.chunk_replaced(good, out), Reason.CHUNK_MISMATCH),
    "for another device type": (
        lambda publisher, good, out: publishing.for_device_type(publisher, good, out, "toaster", "2.0.0"),
        Reason.INCOMPATIBLE,
    ),
    "truncated": (
        lambda _, good, out: publishing.truncated(good, out, good.stat().st_size // 2),
        Reason.TRUNCATED,
    ),
    "empty": (lambda _, good, out: publishing.truncated(good, out, 0), Reason.TRUNCATED),
    "5 GB of zeros": (lambda _, good, out: publishing.zeros(out), Reason.MALFORMED),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_bundle_is_refused_by_its_own_word(publisher: Publisher, good: Path, tmp_path: Path, name: str) -> None:
    craft, reason = HOSTILE[name]
    bad = craft(publisher, good, tmp_path / "bad.bundle")
    with pytest.raises(Rejected) as caught:
        admit(bad, publisher.pinned)
    assert caught.value.reason is reason
    assert caught.value.next_step


def test_someone_elses_bundle_is_good_for_someone_else(good: Path, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish_manifest(a_manifest(), FILES)
    theirs = stranger.bundle("tiny@1.0.0", tmp_path / "theirs")
    assert admit(theirs, stranger.pinned)


def test_a_bundle_is_good_for_ninety_days(publisher: Publisher, good: Path) -> None:
    now = datetime.now(UTC)
    assert admit(good, publisher.pinned, now=now + timedelta(days=89))
    with pytest.raises(Rejected) as caught:
        admit(good, publisher.pinned, now=now + timedelta(days=91))
    assert caught.value.reason is Reason.EXPIRED


def test_a_floor_in_the_bundle_keeps_older_releases_out(publisher: Publisher, good: Path, tmp_path: Path) -> None:
    publisher.refresh(floors={"tiny": a_manifest().release + 1})
    with pytest.raises(Rejected) as caught:
        admit(publisher.bundle("tiny@1.0.0", tmp_path / "b"), publisher.pinned)
    assert caught.value.reason is Reason.BELOW_FLOOR


def test_an_unknown_version_comes_with_close_matches(publisher: Publisher, good: Path, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        publisher.bundle("tiny@1.0.1", tmp_path / "b")
    assert caught.value.reason is Reason.UNKNOWN_VERSION and "tiny@1.0.0" in caught.value.next_step
    with pytest.raises(Rejected, match="there is no repository"):
        write_bundle(Repository(tmp_path / "nowhere"), "tiny@1.0.0", tmp_path / "b")


def test_chunks_that_occur_twice_are_bundled_once(publisher: Publisher, tmp_path: Path) -> None:
    zeros = file_entry("zeros", bytes(3 * limits.CHUNK_BYTES))
    publisher.publish_manifest(
        a_manifest(files=(*a_manifest().files, zeros)), {**FILES, "zeros": bytes(3 * limits.CHUNK_BYTES)}
    )
    bundle = publisher.bundle("tiny@1.0.0", tmp_path / "b")
    assert bundle.stat().st_size < 2 * limits.CHUNK_BYTES
    assert admit(bundle, publisher.pinned).manifest.total_bytes() > 3 * limits.CHUNK_BYTES


def test_a_snapshot_of_five_gibibytes_is_signed_bundled_and_admitted(publisher: Publisher, tmp_path: Path) -> None:
    """Lengths beyond 4 GiB in the manifest; the bytes are one chunk that occurs 5,120 times."""
    chunk = bytes(limits.CHUNK_BYTES)
    large = FileEntry("large", 5 * limits.GIB, "f" * 64, (sha256_hex(chunk),) * 5120)
    with publisher.repository.publishing():
        publisher.repository.write_chunk(large.chunks[0], chunk)
    publisher.publish_manifest(a_manifest(files=(*a_manifest().files, large)), FILES)
    with BundleReader(publisher.bundle("tiny@1.0.0", tmp_path / "b")) as reader:
        assert reader.chunk(large.chunks[0]) == chunk
        assert len(reader.manifest_raw) > 5120 * 64
        verified = verify_admitted(reader.evidence, reader.manifest_raw, publisher.pinned)
        assert verified.manifest.file("large") == large
