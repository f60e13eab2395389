"""Beyond 2 and 4 GiB, sparse: one file of a snapshot, the database itself, and a bundle on its way into the store.

That a real device takes such a snapshot in is tested in test_small_memory.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from edge_agent.contract import evidence as names
from edge_agent.contract.limits import CHUNK_BYTES, GIB, MIB
from edge_agent.contract.manifest import encode_manifest
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.store.models_db import ModelsDb
from tests.samples import a_manifest
from tests.store import large
from tests.store.snapshots import EVIDENCE, NOW_MS, SMALL, Content, content, read_sealed, take_in, visible


def large_snapshot() -> Content:
    manifest = a_manifest(files=(*a_manifest().files, large.entry()))
    raw, digest = encode_manifest(manifest)
    return Content(manifest, raw, digest, {})


def test_a_file_beyond_four_gibibytes_is_stored_once_and_read_whole(tmp_path: Path) -> None:
    """4,161 chunks of which six are different: hashed chunk by chunk and as a whole, then checked where 32 bits end."""
    models, snapshot = ModelsDb(tmp_path / "models.db"), large_snapshot()
    models.begin_offer(snapshot.digest, snapshot.manifest, snapshot.raw, EVIDENCE, NOW_MS)
    for sha256, data in (*large.CHUNKS.items(), *content("1.0.0", chunks=0, small=True).chunks().items()):
        models.put_chunk(sha256, data)
    models.admit(snapshot.digest, snapshot.manifest, NOW_MS)
    assert models.used_bytes() < 16 * MIB
    fd = models.open_sealed(snapshot.manifest, "large")
    try:
        found = os.fstat(fd)
        assert found.st_size == large.LENGTH
        assert found.st_blocks * 512 < 16 * MIB, "zeros take no memory"
        for place in large.MARKED:
            assert os.pread(fd, CHUNK_BYTES, place * CHUNK_BYTES) == large.marked(place)
        assert os.pread(fd, 100, large.LENGTH - 5) == b"<end>"
        assert os.pread(fd, 10, 3 * GIB) == bytes(10)
    finally:
        os.close(fd)
        models.close()


def stretch(database: Path, length: int) -> None:
    """Make the file so long without writing it: pages that nothing uses, as far as SQLite knows in use.

    Its length in pages stands in the header (https://sqlite.org/fileformat.html, 1.3).
    """
    with database.open("r+b") as raw:
        raw.seek(16)
        page_bytes = int.from_bytes(raw.read(2), "big")
        raw.seek(28)
        raw.write((length // page_bytes).to_bytes(4, "big"))
        raw.truncate(length)


def test_a_database_beyond_four_gibibytes_is_written_read_and_collected(tmp_path: Path) -> None:
    path = tmp_path / "models.db"
    first, second, third = (content(version, chunks=3) for version in ("1.0.0", "2.0.0", "3.0.0"))
    models = ModelsDb(path)
    take_in(models, first)
    for length, snapshot in ((2 * GIB - 2 * MIB, second), (4 * GIB - 2 * MIB, third)):
        models.close()
        stretch(path, length)
        models = ModelsDb(path)
        take_in(models, snapshot)
    assert path.stat().st_size > 4 * GIB
    assert path.stat().st_blocks * 512 < 64 * MIB, "the test itself is sparse"
    for snapshot in (first, second, third):
        assert read_sealed(models, snapshot, "weights") == snapshot.files["weights"]
        assert models.scrub(snapshot.manifest, 0, 100).damaged == ()
    models.remove_snapshot(third.digest)
    assert models.collect_garbage(100) == 3
    assert path.stat().st_size < 4 * GIB, "what lay behind 4 GiB was given back"
    assert visible(models) == {first.digest, second.digest}
    assert read_sealed(models, second, "weights") == second.files["weights"]
    models.close()


def test_a_bundle_beyond_four_gibibytes_is_taken_in(tmp_path: Path) -> None:
    """Half of its chunks lie behind 4 GiB in the file, where only ZIP64 reaches."""
    snapshot = content("1.0.0", chunks=4)
    path = tmp_path / "large.bundle"
    head = {
        names.BUNDLE_FORMAT_ENTRY: names.BUNDLE_FORMAT.encode(),
        names.bundle_root_entry(1): b"root",
        names.BUNDLE_TIMESTAMP_ENTRY: b"timestamp",
        names.BUNDLE_TUF_SNAPSHOT_ENTRY: b"snapshot",
        names.BUNDLE_TARGETS_ENTRY: b"targets",
        names.BUNDLE_MANIFEST_ENTRY: snapshot.raw,
    }
    with path.open("wb") as stream, zipfile.ZipFile(stream, "w") as bundle:
        for name, data in head.items():
            bundle.writestr(zipfile.ZipInfo(name), data)
        for number, (sha256, data) in enumerate(snapshot.chunks().items()):
            if number in (len(SMALL), len(SMALL) + 2):
                stream.seek((2 * GIB if number == len(SMALL) else 4 * GIB) - MIB // 2)
                bundle.start_dir = stream.tell()  # where the next entry begins
            bundle.writestr(zipfile.ZipInfo(names.bundle_chunk_entry(sha256)), data)
    assert path.stat().st_size > 4 * GIB and path.stat().st_blocks * 512 < 16 * MIB
    models = ModelsDb(tmp_path / "models.db")
    with BundleReader(path) as reader:
        models.begin_offer(snapshot.digest, snapshot.manifest, reader.manifest_raw, EVIDENCE, NOW_MS)
        for sha256 in models.missing_chunks(snapshot.manifest):
            models.put_chunk(sha256, reader.chunk(sha256))
    models.admit(snapshot.digest, snapshot.manifest, NOW_MS)
    assert read_sealed(models, snapshot, "weights") == snapshot.files["weights"]
    models.close()
