"""Packing: a model folder becomes a signed snapshot, if the model reproduces its golden vectors.

How it is run is proving.py's matter, how it is signed signing.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from cloud_sync.publish.keys import read_first_root
from cloud_sync.publish.model_folder import ModelFolder, hash_file, read_chunks, read_model_folder
from cloud_sync.publish.proving import Interpreters, Proof, prove
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import Published, publish, read_published
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Corrupt, Rejected
from edge_agent.contract.evidence import MANIFESTS_PREFIX, manifest_target_path
from edge_agent.contract.manifest import (
    EngineProfile,
    FileEntry,
    Manifest,
    chunk_lengths,
    encode_manifest,
    parse_manifest,
)
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason


class Progress(Protocol):
    """Where packing says what it does; the operator's CLI draws it."""

    def step(self, text: str, total_bytes: int) -> None:
        """A new step begins, with so many bytes to go through (0: unknown)."""

    def advance(self, done_bytes: int) -> None:
        """So many more bytes are done."""


class Silence:
    """A Progress that says nothing."""

    def step(self, text: str, total_bytes: int) -> None:
        """Say nothing."""

    def advance(self, done_bytes: int) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class PublishedSnapshot:
    """A manifest of the repository: parsed, its bytes as they were signed, their SHA-256."""

    manifest: Manifest
    raw: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Packed:
    """What packing gave. unchanged: the very same snapshot had been published before, nothing was done."""

    manifest: Manifest
    digest: str
    unchanged: bool
    proofs: tuple[Proof, ...]
    versions: Mapping[str, int]


def pack(
    folder: Path,
    *,
    keys: Path,
    repository: Repository,
    interpreters: Interpreters,
    now: datetime,
    progress: Progress | None = None,
) -> Packed:
    """Read, prove, store and sign one model folder.

    Raises Rejected: the folder is not as agreed, the model does not reproduce its golden vectors, the version
    is known with other bytes, the release does not grow. Unavailable: no interpreter, no room, another
    publisher is at work. Corrupt: a damaged repository.
    """
    say = progress or Silence()
    model = read_model_folder(folder)
    first_root = read_first_root(keys)
    files = _hash_files(model, say)
    published = read_published(repository, first_root)
    same = _check_publishable(repository, published, model, files)
    if same is not None:
        return same
    proofs = tuple(_prove(model, profile, interpreters, say) for profile in _profiles(model))
    manifest = model.manifest(files, tuple(_measured(proof) for proof in proofs))
    raw, digest = encode_manifest(manifest)
    with repository.publishing():
        published = read_published(repository, first_root)  # again: another publisher may have been faster
        same = _check_publishable(repository, published, model, files)
        if same is not None:
            return same
        _store_chunks(repository, model, files, say)
        path = manifest_target_path(manifest.name, manifest.version)
        repository.write_target(path, raw)
        repository.begin(first_root)
        versions = publish(repository, keys, published, now=now, added={path: raw})
    return Packed(manifest, digest, unchanged=False, proofs=proofs, versions=versions)


def refresh(
    *,
    keys: Path,
    repository: Repository,
    now: datetime,
    floors: Mapping[str, int] | None = None,
    minimums: Mapping[str, Policy] | None = None,
) -> Mapping[str, int]:
    """Sign the same content again with new dates, with floors raised and minimum policies stated if any are given; the
    versions then.

    Raises Rejected, Unavailable, Corrupt as `pack` does.
    """
    repository.require()
    with repository.publishing():
        published = read_published(repository, read_first_root(keys))
        return publish(repository, keys, published, now=now, floors=floors, minimums=minimums)


def published_snapshots(repository: Repository, published: Published) -> tuple[PublishedSnapshot, ...]:
    """All published snapshots, by name and release. Raises Corrupt for a damaged manifest."""
    found = []
    for path, target in published.targets.items():
        if not path.startswith(MANIFESTS_PREFIX):
            continue  # the coordinator's key is a signed target too
        raw = repository.read_target(path, length=target.length, sha256=target.hashes["sha256"])
        found.append(PublishedSnapshot(parse_manifest(raw), raw, sha256_hex(raw)))
    return tuple(sorted(found, key=lambda snapshot: (snapshot.manifest.name, snapshot.manifest.release)))


def _profiles(model: ModelFolder) -> tuple[EngineProfile, ...]:
    return tuple(engine.profile() for engine in model.description.engines)


def _hash_files(model: ModelFolder, say: Progress) -> tuple[FileEntry, ...]:
    say.step(f"hashing {model.label()}", sum((model.folder / name).stat().st_size for name in model.paths))
    return tuple(hash_file(model.folder / name, name, say.advance) for name in model.paths)


def _prove(model: ModelFolder, profile: EngineProfile, interpreters: Interpreters, say: Progress) -> Proof:
    say.step(f"proving {model.label()} with {profile.engine}", 0)
    return prove(model, profile, interpreters)


def _measured(proof: Proof) -> EngineProfile:
    """The profile with the memory that the recipe did not state itself."""
    stated = proof.profile
    return msgspec.structs.replace(
        stated,
        resident_bytes=stated.resident_bytes or proof.resident_bytes,
        load_peak_bytes=stated.load_peak_bytes or proof.load_peak_bytes,
    )


def _check_publishable(
    repository: Repository, published: Published, model: ModelFolder, files: tuple[FileEntry, ...]
) -> Packed | None:
    """None when this version is new and its release grows; the earlier result if it is the same."""
    about = model.description
    for snapshot in published_snapshots(repository, published):
        manifest = snapshot.manifest
        if manifest.name != about.name:
            continue
        if manifest.version == about.version:
            return _same_or_conflict(snapshot, published, model, files)
        if manifest.release >= about.release:
            raise Rejected(
                f"{model.label()} is release {about.release}, but {manifest.label()} is {manifest.release}",
                reason=Reason.VERSION_CONFLICT,
                next_step=f"Give it a release greater than {manifest.release} in snapshot.json",
            )
    return None


def _same_or_conflict(
    earlier: PublishedSnapshot, published: Published, model: ModelFolder, files: tuple[FileEntry, ...]
) -> Packed:
    """Measured memory differs from run to run: for the comparison, what was measured then stands in."""
    memory = {profile.engine: profile for profile in earlier.manifest.engines}
    engines = tuple(
        msgspec.structs.replace(
            profile,
            resident_bytes=profile.resident_bytes or memory[profile.engine].resident_bytes,
            load_peak_bytes=profile.load_peak_bytes or memory[profile.engine].load_peak_bytes,
        )
        if profile.engine in memory
        else profile
        for profile in _profiles(model)
    )
    if model.manifest(files, engines) != earlier.manifest:
        raise Rejected(
            f"{model.label()} is already published with other bytes (digest {earlier.digest[:12]}…)",
            reason=Reason.VERSION_CONFLICT,
        )
    return Packed(earlier.manifest, earlier.digest, unchanged=True, proofs=(), versions=published.versions)


def _store_chunks(repository: Repository, model: ModelFolder, files: tuple[FileEntry, ...], say: Progress) -> None:
    """Copy the chunks, compared with the hashes taken before the proof: what was proven is published."""
    say.step(f"storing {model.label()}", sum(entry.length for entry in files))
    for entry in files:
        hashes = iter(zip(entry.chunks, chunk_lengths(entry), strict=True))
        for chunk in read_chunks(model.folder / entry.path):
            sha256, length = next(hashes, ("", 0))
            if len(chunk) != length or sha256_hex(chunk) != sha256:
                raise Corrupt(
                    f"{entry.path} changed while it was packed",
                    next_step="Let the recipe end, then pack again",
                )
            if not repository.has_chunk(sha256, length):
                repository.write_chunk(sha256, chunk)
            say.advance(length)
        if next(hashes, None) is not None:
            raise Corrupt(f"{entry.path} became shorter while it was packed", next_step="Pack again")
