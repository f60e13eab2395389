"""Snapshots of a few chunks for tests of the store, and ways to take them in. Nothing here is signed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

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


def flip(database: Path, needle: bytes, *, bit: int = 1) -> None:
    """Another bit in the middle of these bytes, wherever they lie in the file, behind SQLite's back."""
    raw = bytearray(database.read_bytes())
    at = raw.find(needle)
    assert at >= 0, f"{needle[:40]!r} is not in {database.name}"
    while at >= 0:
        raw[at + len(needle) // 2] ^= bit
        at = raw.find(needle, at + 1)
    database.write_bytes(raw)


@contextmanager
def small_disk(folder: Path, kib: int = 16 * 1024) -> Iterator[Path]:
    """A file system of its own in memory, with so much room. Skips where none can be mounted."""
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, *, leave_bytes: int) -> Path:
    """Use up the disk but for so much; the file to remove when there is to be room again."""
    filler = disk / "filler"
    found = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - leave_bytes)))
    return filler
