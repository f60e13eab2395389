"""Snapshots of a few chunks for tests of the store, and ways to take them in. Nothing here is signed."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.manifest import Manifest, encode_manifest
from edge_agent.store.models_db import ModelsDb
from tests.samples import a_manifest, file_entry

SMALL = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}
EVIDENCE = b"evidence, exactly as it was signed"
NOW_MS = 1_900_000_000_000


@dataclass(frozen=True)
class Content:
    """A manifest, its bytes, and the content of its files."""

    manifest: Manifest
    raw: bytes
    digest: str
    files: dict[str, bytes]

    def chunks(self) -> dict[str, bytes]:
        """Every chunk by its hash, in the manifest's order."""
        step = limits.CHUNK_BYTES
        pieces = [data[at : at + step] for data in self.files.values() for at in range(0, len(data), step)]
        by_hash = {sha256_hex(piece): piece for piece in pieces}
        return {sha256: by_hash[sha256] for sha256 in self.manifest.chunk_hashes()}


def content(version: str = "1.0.0", chunks: int = 2, *, seed: int | None = None, small: bool = False) -> Content:
    """A snapshot with a weights file of so many chunks (the last one is short), other bytes for each version.

    seed: for the bytes, in place of the version. small: chunks of a few bytes only, one a file.
    """
    mark = str(version if seed is None else seed).encode()
    bodies = [(mark + b"-%d-" % number).ljust(64, b".") for number in range(chunks)]
    if small:
        weights = {f"part{number}": body for number, body in enumerate(bodies)}
    else:
        whole = b"".join(body * (limits.CHUNK_BYTES // len(body)) for body in bodies)
        weights = {"weights": whole[: len(whole) - 100]}
    files = {**SMALL, **weights}
    entries = tuple(file_entry(path, data) for path, data in files.items())
    release = int.from_bytes(mark[:4], "big")
    manifest = a_manifest(version=version, release=release, files=entries)
    raw, digest = encode_manifest(manifest)
    return Content(manifest, raw, digest, files)


def offer(models: ModelsDb, snapshot: Content) -> None:
    models.begin_offer(snapshot.digest, snapshot.manifest, snapshot.raw, EVIDENCE, NOW_MS)


def put_all(models: ModelsDb, snapshot: Content) -> None:
    for sha256, data in snapshot.chunks().items():
        models.put_chunk(sha256, data)


def take_in(models: ModelsDb, *snapshots: Content) -> None:
    """Offer, store every chunk, admit."""
    for snapshot in snapshots:
        offer(models, snapshot)
        put_all(models, snapshot)
        models.admit(snapshot.digest, snapshot.manifest, NOW_MS)


def visible(models: ModelsDb) -> set[str]:
    return {snapshot.digest for snapshot in models.snapshots()}


def read_sealed(models: ModelsDb, snapshot: Content, path: str) -> bytes:
    """The bytes of a file as a worker gets them."""
    fd = models.open_sealed(snapshot.manifest, path)
    with os.fdopen(fd, "rb") as sealed:
        sealed.seek(0)
        return sealed.read()


def open_memory_files(name: str) -> int:
    """How many memory files of this name this process holds."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own is gone by now
            found += f"memfd:{name}" in os.readlink(entry)
    return found


def flip(database: Path, needle: bytes, *, bit: int = 1) -> None:
    """Another bit in the middle of these bytes, wherever they lie in the file, behind SQLite's back."""
    raw = bytearray(database.read_bytes())
    at = raw.find(needle)
    assert at >= 0, f"{needle[:40]!r} is not in {database.name}"
    while at >= 0:
        raw[at + len(needle) // 2] ^= bit
        at = raw.find(needle, at + 1)
    database.write_bytes(raw)
