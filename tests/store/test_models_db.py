"""models.db: what becomes visible, what is taken in, what is believed when it is read, what is given back.

Kills, full disks and great sizes have files of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Corrupt, Rejected
from edge_agent.contract.manifest import encode_manifest
from edge_agent.contract.reasons import Reason
from edge_agent.store.models_db import ModelsDb, StoredSnapshot
from tests.store.snapshots import (
    EVIDENCE,
    NOW_MS,
    content,
    flip,
    offer,
    open_memory_files,
    put_all,
    read_sealed,
    take_in,
    visible,
)

ONE, TWO = content("1.0.0"), content("2.0.0")


@pytest.fixture
def models(tmp_path: Path) -> Iterator[ModelsDb]:
    opened = ModelsDb(tmp_path / "models.db")
    yield opened
    opened.close()


def refused(reason: Reason, call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(Rejected) as caught:
        call(*arguments)
    assert caught.value.reason is reason
    return caught.value.message


def reopened(models: ModelsDb) -> ModelsDb:
    models.close()
    return ModelsDb(models.path)


# ---- admission


def test_a_snapshot_is_visible_only_after_its_last_chunk(models: ModelsDb) -> None:
    offer(models, ONE)
    chunks = list(ONE.chunks().items())
    for sha256, data in chunks:
        assert "missing" in refused(Reason.TRUNCATED, models.admit, ONE.digest, ONE.manifest, NOW_MS)
        assert visible(models) == set()
        assert sha256 in models.missing_chunks(ONE.manifest)
        models.put_chunk(sha256, data)
    assert visible(models) == set(), "only an admission makes it visible"
    models.admit(ONE.digest, ONE.manifest, NOW_MS)
    assert visible(models) == {ONE.digest}
    assert models.offers() == ()


def test_a_refused_admission_keeps_the_offer_and_what_has_come(models: ModelsDb) -> None:
    offer(models, ONE)
    first, *rest = ONE.chunks()
    models.put_chunk(first, ONE.chunks()[first])
    refused(Reason.TRUNCATED, models.admit, ONE.digest, ONE.manifest, NOW_MS)
    assert models.offers() == ((ONE.digest, NOW_MS),)
    assert models.missing_chunks(ONE.manifest) == tuple(rest)


def test_an_admission_that_fails_in_the_middle_shows_nothing(models: ModelsDb) -> None:
    offer(models, ONE)
    put_all(models, ONE)
    models._db.execute("CREATE TRIGGER t BEFORE DELETE ON offer BEGIN SELECT RAISE(ABORT, 'in the middle'); END")
    with pytest.raises(Corrupt, match="in the middle"):
        models.admit(ONE.digest, ONE.manifest, NOW_MS)
    models = reopened(models)
    assert (visible(models), len(models.offers())) == (set(), 1)


def test_what_was_never_offered_cannot_be_admitted(models: ModelsDb) -> None:
    take_in(models, ONE)
    relabelled = msgspec.structs.replace(ONE.manifest, version="9.0.0")
    models.admit(encode_manifest(relabelled)[1], relabelled, NOW_MS)
    assert visible(models) == {ONE.digest}, "all its chunks are here, but nobody vouched for it"


def test_admitting_again_changes_nothing(models: ModelsDb) -> None:
    take_in(models, ONE)
    before = models.snapshots()
    take_in(models, ONE)
    assert models.snapshots() == before
    assert models.offers() == ()


def test_manifest_and_evidence_are_kept_byte_for_byte(models: ModelsDb) -> None:
    take_in(models, ONE)
    (stored,) = reopened(models).snapshots()
    manifest = ONE.manifest
    assert stored == StoredSnapshot(ONE.digest, manifest.name, manifest.version, manifest.release, ONE.raw, EVIDENCE)


def test_a_version_is_never_two_things(models: ModelsDb) -> None:
    """Neither beside a visible snapshot nor beside one that is on its way."""
    other = content("1.0.0", seed=7)
    offer(models, ONE)
    said = refused(Reason.VERSION_CONFLICT, offer, models, other)
    assert "tiny@1.0.0" in said and other.digest[:12] in said
    take_in(models, ONE)
    refused(Reason.VERSION_CONFLICT, offer, models, other)
    assert models.offers() == ()


def test_snapshots_are_told_in_the_order_of_their_admission(models: ModelsDb) -> None:
    for at, snapshot in ((3, ONE), (1, TWO)):
        offer(models, snapshot)
        put_all(models, snapshot)
        models.admit(snapshot.digest, snapshot.manifest, at)
    assert [snapshot.digest for snapshot in models.snapshots()] == [TWO.digest, ONE.digest]


# ---- chunks


def test_a_chunk_is_hashed_before_it_is_written(models: ModelsDb) -> None:
    offer(models, ONE)
    sha256, data = next(iter(ONE.chunks().items()))
    refused(Reason.CHUNK_MISMATCH, models.put_chunk, sha256, data + b"x")
    refused(Reason.CHUNK_MISMATCH, models.put_chunk, "not a hash", data)
    large = bytes(limits.CHUNK_BYTES + 1)
    refused(Reason.TOO_LARGE, models.put_chunk, sha256_hex(large), large)
    assert set(models.missing_chunks(ONE.manifest)) == set(ONE.chunks())


def test_every_file_comes_back_as_it_was(models: ModelsDb) -> None:
    take_in(models, ONE, TWO)
    models = reopened(models)
    for snapshot in (ONE, TWO):
        for path, data in snapshot.files.items():
            assert read_sealed(models, snapshot, path) == data


def test_a_damaged_chunk_is_never_read(models: ModelsDb) -> None:
    take_in(models, ONE)
    flip(models.path, b"1.0.0-1-")
    (damaged,) = [sha256 for sha256, data in ONE.chunks().items() if data.startswith(b"1.0.0-1-")]
    for _ in range(2):  # the second time it might come from a cache
        with pytest.raises(Corrupt) as caught:
            models.open_sealed(ONE.manifest, "weights")
        assert caught.value.reason is Reason.DAMAGE
        assert damaged[:12] in caught.value.message
    assert read_sealed(models, ONE, "model.json") == b"program", "other files are not touched by it"
    assert models.scrub(ONE.manifest, 0, 100).damaged == (damaged,)


def test_damage_after_a_read_is_seen_by_the_next_load(models: ModelsDb) -> None:
    """What SQLite still has in memory is not what is on the disk."""
    take_in(models, ONE)
    assert read_sealed(models, ONE, "golden/x.npy") == b"inputs"
    flip(models.path, b"inputs")
    with pytest.raises(Corrupt):
        models.open_sealed(ONE.manifest, "golden/x.npy")


def test_a_missing_chunk_is_damage(models: ModelsDb) -> None:
    take_in(models, ONE)
    gone = next(iter(ONE.chunks()))
    models.discard_chunks((gone,))
    with pytest.raises(Corrupt):
        models.read_chunk(gone)
    assert models.scrub(ONE.manifest, 0, 100).damaged == (gone,)
    assert models.missing_chunks(ONE.manifest) == (gone,)


def test_chunks_that_are_right_but_in_another_order_are_damage(models: ModelsDb) -> None:
    """Each chunk has its hash, the whole does not: a manifest that contradicts itself loads nothing."""
    weights = ONE.manifest.file("weights")
    turned = msgspec.structs.replace(weights, sha256=sha256_hex(b"something else"))
    files = tuple(turned if entry.path == "weights" else entry for entry in ONE.manifest.files)
    manifest = msgspec.structs.replace(ONE.manifest, files=files)
    take_in(models, ONE)
    with pytest.raises(Corrupt, match="weights does not have the hash"):
        models.open_sealed(manifest, "weights")
    assert open_memory_files("tiny@1.0.0/weights") == 0, "the half-made one is given back"


def test_a_scrub_goes_through_in_pieces_and_tells_all(models: ModelsDb) -> None:
    take_in(models, ONE)
    hashes = ONE.manifest.chunk_hashes()
    models.discard_chunks((hashes[0], hashes[3]))
    found, position, pieces = [], 0, 0
    while position is not None:  # each piece moves on
        scrubbed = models.scrub(ONE.manifest, position, 2)
        found += scrubbed.damaged
        position, pieces = scrubbed.next_chunk, pieces + 1
    assert (found, pieces) == ([hashes[0], hashes[3]], 3)


# ---- repairs


def test_a_repair_wants_only_what_is_damaged(models: ModelsDb) -> None:
    take_in(models, ONE)
    flip(models.path, b"1.0.0-0-")
    damaged = models.scrub(ONE.manifest, 0, 100).damaged
    models.discard_chunks(damaged)
    offer(models, ONE)
    assert models.offers() == (), "a visible snapshot needs no offer"
    assert models.missing_chunks(ONE.manifest) == damaged
    for sha256 in damaged:
        models.put_chunk(sha256, ONE.chunks()[sha256])
    models.admit(ONE.digest, ONE.manifest, NOW_MS)
    assert read_sealed(models, ONE, "weights") == ONE.files["weights"]


def test_a_right_chunk_takes_the_place_of_a_damaged_one(models: ModelsDb) -> None:
    """Also when nobody discarded the damaged one first."""
    take_in(models, ONE)
    flip(models.path, b"inputs")
    models.put_chunk(sha256_hex(b"inputs"), b"inputs")
    assert read_sealed(models, ONE, "golden/x.npy") == b"inputs"


def test_a_damaged_row_is_passed_over_and_mended_by_the_next_offer(models: ModelsDb) -> None:
    take_in(models, ONE, TWO)
    flip(models.path, b'"interface":"tiny-1"')  # in both manifests
    models = reopened(models)
    assert visible(models) == set()
    offer(models, ONE)
    assert visible(models) == {ONE.digest}
    assert models.snapshots()[0].evidence_raw == EVIDENCE
    assert models.missing_chunks(ONE.manifest) == ()


# ---- giving back


def test_collection_takes_only_what_nothing_names(models: ModelsDb) -> None:
    """Visible snapshots and offers keep their chunks, also those that they share with a removed one."""
    shared = content("3.0.0", seed=1)
    sharing = content("4.0.0", chunks=3, seed=1)
    take_in(models, ONE, shared)
    offer(models, sharing)
    put_all(models, sharing)
    models.remove_snapshot(shared.digest)
    collected = models.collect_garbage(100)
    assert collected == 1, "the short last chunk of the removed one: in the other one it is a whole chunk"
    assert models.missing_chunks(sharing.manifest) == ()
    assert read_sealed(models, ONE, "weights") == ONE.files["weights"]
    assert models.collect_garbage(100) == 0


def test_a_dropped_offer_is_collected_in_pieces(models: ModelsDb) -> None:
    take_in(models, ONE)
    offer(models, TWO)
    put_all(models, TWO)
    models.drop_offer(TWO.digest)
    assert models.offers() == ()
    assert [models.collect_garbage(1) for _ in range(3)] == [1, 1, 0]  # the small files are shared
    assert models.missing_chunks(ONE.manifest) == ()


def test_removed_bytes_are_given_back_to_the_disk(models: ModelsDb) -> None:
    take_in(models, ONE)
    lasting = os.stat(models.path).st_size
    large = content("5.0.0", chunks=12)
    take_in(models, large)
    grown = os.stat(models.path).st_size
    assert grown > lasting + 12 * limits.MIB
    models.remove_snapshot(large.digest)
    while models.collect_garbage(limits.GARBAGE_CHUNKS_AT_ONCE):  # each pass removes some
        continue
    assert os.stat(models.path).st_size <= lasting + 128 * limits.KIB
    assert models.used_bytes() <= os.stat(models.path).st_size
    assert read_sealed(models, ONE, "weights") == ONE.files["weights"]


def test_a_damaged_manifest_does_not_stop_the_collection(models: ModelsDb) -> None:
    take_in(models, ONE, TWO)
    flip(models.path, b'"version":"2.0.0"')
    models.remove_snapshot(ONE.digest)
    assert models.collect_garbage(100) > 0


# ---- what goes with a snapshot


def test_proofs_stay_with_their_snapshot_and_go_with_it(models: ModelsDb) -> None:
    take_in(models, ONE)
    models.record_proof(ONE.digest, "numpy", "{}", 1)
    models.record_proof(ONE.digest, "numpy", '{"load_ms": 2}', 2)
    models.record_proof(ONE.digest, "paddle", "{}", 3)
    assert sorted(models.proofs(ONE.digest)) == [("numpy", 2, '{"load_ms": 2}'), ("paddle", 3, "{}")]
    models.remove_snapshot(ONE.digest)
    assert models.proofs(ONE.digest) == ()
    assert visible(models) == set()


def test_a_row_taken_over_may_lack_chunks_and_says_so(models: ModelsDb) -> None:
    row = StoredSnapshot(ONE.digest, "tiny", "1.0.0", ONE.manifest.release, ONE.raw, EVIDENCE)
    models.put_snapshot(row, NOW_MS)
    assert models.snapshots() == (row,)
    assert set(models.missing_chunks(ONE.manifest)) == set(ONE.chunks())


def a_later_schema(models: ModelsDb) -> None:
    """What a later agent might add."""
    models._db.executescript(
        "ALTER TABLE snapshot ADD COLUMN provenance TEXT; ALTER TABLE chunk ADD COLUMN codec TEXT DEFAULT 'raw';"
        "CREATE TABLE derived(digest TEXT PRIMARY KEY, engine TEXT); PRAGMA user_version=7;"
    )


def test_an_older_agent_serves_from_a_newer_database(models: ModelsDb) -> None:
    take_in(models, ONE)
    a_later_schema(models)
    models = reopened(models)
    assert read_sealed(models, ONE, "weights") == ONE.files["weights"]
    take_in(models, TWO)
    assert visible(models) == {ONE.digest, TWO.digest}
    assert models._db.execute("PRAGMA user_version").fetchone() == (7,), "the newer agent finds its own again"
