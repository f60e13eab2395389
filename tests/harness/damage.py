"""Damage, made exactly: stored chunks, releases that are wrong on purpose.

How an agent takes it is the tests' matter.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edge_agent.contract.manifest import Manifest
from tests.publishing import manifest_of


def flip_stored_chunks(models_db: Path, chunk_bytes: list[bytes], *, at: int = 40) -> int:
    """Flip a bit in each of these chunks where it lies in the database file, behind SQLite's back; how many were found.

    The first 24 bytes that lie behind `at` find the chunk (its pages follow one another or not: only those are
    touched).
    """
    content = bytearray(models_db.read_bytes())
    flipped = 0
    for chunk in chunk_bytes:
        place = content.find(chunk[at : at + 24])
        while place >= 0:  # every copy: one may lie in a free page
            content[place + 5] ^= 0x10
            flipped += 1
            place = content.find(chunk[at : at + 24], place + 24)
    with models_db.open("r+b") as target:
        target.write(content)
    return flipped


def stored_chunks(repository: Path, manifest: Manifest, path: str) -> list[bytes]:
    """The chunks of one file, as published."""
    return [(repository / "chunks" / sha256).read_bytes() for sha256 in manifest.file(path).chunks]


def flip_parameters(models_db: Path, repository: Path, bundle: Path) -> int:
    """Flip bits in the stored parameters of this bundle's snapshot; in how many places (one at least)."""
    manifest = manifest_of(bundle)
    path = manifest.engines[0].parameters
    assert path is not None
    flipped = flip_stored_chunks(models_db, stored_chunks(repository, manifest, path))
    assert flipped, f"no chunk of {path} is in {models_db.name}"
    return flipped


def is_damaged(model: dict[str, Any], digest: str) -> bool:
    """Whether a slot's document says that this snapshot's stored bytes are damaged."""
    return any(snapshot["digest"] == digest and snapshot["damaged"] for snapshot in model["snapshots"])


def other_weights(good: Path, out: Path, version: str, release: int) -> Path:
    """A model folder whose parameters are not those of its golden outputs (numbers changed places, form intact)."""
    shutil.copytree(good, out)
    engine = relabel(out, version, release)["engines"][0]
    parameters = out / engine["parameters"]
    content = bytearray(parameters.read_bytes())
    middle, block = (
        len(content) // 2,
        4000,
    )  # inside the largest tensor, whole float32 numbers: two blocks change places
    content[middle - block : middle + block] = content[middle : middle + block] + content[middle - block : middle]
    parameters.write_bytes(content)
    return out


def crashing_program(good: Path, out: Path, version: str, release: int) -> Path:
    """A model folder whose legacy Paddle program ends the engine with SIGSEGV: the name of its feed variable is
    damaged.
    """
    shutil.copytree(good, out)
    engine = relabel(out, version, release)["engines"][0]
    program = out / engine["program"]
    content = bytearray(program.read_bytes())
    content[content.index(b"feed")] ^= 1
    program.write_bytes(content)
    return out


def relabel(folder: Path, version: str, release: int) -> dict[str, list[dict[str, str]]]:
    """Give a model folder another version and release; its description."""
    path = folder / "snapshot.json"
    document: dict[str, list[dict[str, str]]] = json.loads(path.read_text())
    document |= {"version": version, "release": release}  # type: ignore[dict-item]
    path.write_text(json.dumps(document, indent=2))
    return document
