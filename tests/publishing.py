"""A publisher for tests and demonstrations, and bundles that are wrong in one stated way.

The device's side is not here.

publisher = Publisher(tmp_path / "publisher")
publisher.pack(model_folder)                       # proves, signs, stores: what `fleet snapshot pack` does
good = publisher.bundle("tiny@1.0.0", tmp_path / "tiny.bundle")
bad = signature_flipped(good, tmp_path / "bad.bundle")
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cloud_sync.publish.bundle import write_bundle
from cloud_sync.publish.coordinator import Authorized, authorize
from cloud_sync.publish.keys import create_keys, read_first_root
from cloud_sync.publish.model_folder import hash_file, read_model_folder
from cloud_sync.publish.pack import Packed, pack, refresh
from cloud_sync.publish.proving import Interpreters
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import publish, read_published
from edge_agent.contract import evidence as names
from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.manifest import Manifest, encode_manifest, parse_manifest
from edge_agent.contract.policy import Policy


class Publisher:
    """Keys and a repository in a folder. root_file is what devices pin."""

    def __init__(self, folder: Path) -> None:
        self.keys = folder / "keys"
        self.repository = Repository(folder / "repository")
        self.root_file = create_keys(self.keys, now=datetime.now(UTC))

    @property
    def pinned(self) -> bytes:
        """The bytes of root_file."""
        return self.root_file.read_bytes()

    def pack(self, model_folder: Path, *, pythons: Mapping[str, Path] | None = None) -> Packed:
        """Prove and publish a model folder.

        pythons: which interpreter has which engine (default: as `fleet` does).
        """
        return pack(
            model_folder,
            keys=self.keys,
            repository=self.repository,
            interpreters=Interpreters(pythons or {}, os.environ),
            now=datetime.now(UTC),
        )

    def publish_unproven(self, model_folder: Path) -> str:
        """Sign a model folder without running it, as a careless publisher would; gives name@version."""
        model = read_model_folder(model_folder)
        files = {name: (model_folder / name).read_bytes() for name in model.paths}
        entries = tuple(hash_file(model_folder / name, name, lambda _: None) for name in model.paths)
        engines = tuple(engine.profile() for engine in model.description.engines)
        return self.publish_manifest(model.manifest(entries, engines), files)

    def publish_manifest(
        self,
        manifest: Manifest,
        files: Mapping[str, bytes],
        *,
        now: datetime | None = None,
        floors: Mapping[str, int] | None = None,
    ) -> str:
        """Sign any manifest, with the content of its files by path; gives name@version."""
        raw, _ = encode_manifest(manifest)
        path = names.manifest_target_path(manifest.name, manifest.version)
        first_root = read_first_root(self.keys)
        with self.repository.publishing():
            for entry in manifest.files:
                content = memoryview(files.get(entry.path, b""))  # none: its chunks are in the repository already
                for at in range(0, len(content), limits.CHUNK_BYTES):
                    chunk = bytes(content[at : at + limits.CHUNK_BYTES])
                    self.repository.write_chunk(sha256_hex(chunk), chunk)
            self.repository.write_target(path, raw)
            self.repository.begin(first_root)
            published = read_published(self.repository, first_root)
            publish(
                self.repository,
                self.keys,
                published,
                now=now or datetime.now(UTC),
                added={path: raw},
                floors=floors,
            )
        return manifest.label()

    def refresh(self, *, floors: Mapping[str, int] | None = None, minimums: Mapping[str, Policy] | None = None) -> None:
        """Sign the same content again, perhaps with raised floors or other minimum policies."""
        now = datetime.now(UTC)
        refresh(keys=self.keys, repository=self.repository, now=now, floors=floors, minimums=minimums)

    def authorize_coordinator(self, public_key_hex: str) -> Authorized:
        """Name the coordinator by its raw Ed25519 key (64 hexadecimal digits) and sign that."""
        return authorize(public_key_hex, keys=self.keys, repository=self.repository, now=datetime.now(UTC))

    def bundle(self, label: str, out: Path) -> Path:
        """Write the bundle of name@version to `out`."""
        return write_bundle(self.repository, label, out).path


def entries(bundle: Path) -> dict[str, bytes]:
    """All entries of a bundle, in order."""
    with zipfile.ZipFile(bundle) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def write_entries(out: Path, content: Mapping[str, bytes]) -> Path:
    """A bundle with exactly these entries, right or wrong."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as opened:
        for name, data in content.items():
            opened.writestr(zipfile.ZipInfo(name), data)
    return out


def manifest_of(bundle: Path) -> Manifest:
    """The manifest that a bundle carries."""
    return parse_manifest(entries(bundle)[names.BUNDLE_MANIFEST_ENTRY])


def signature_flipped(good: Path, out: Path, entry: str = names.BUNDLE_TIMESTAMP_ENTRY) -> Path:
    """One hexadecimal digit of one signature is another."""
    content = entries(good)
    frame = msgspec.json.decode(content[entry])
    digits = frame["signatures"][0]["sig"]
    frame["signatures"][0]["sig"] = ("0" if digits[0] != "0" else "1") + digits[1:]
    return write_entries(out, {**content, entry: msgspec.json.encode(frame)})


def signed_by_stranger(good: Path, out: Path) -> Path:
    """The same snapshot, signed well, but by someone with keys of their own."""
    content = entries(good)
    manifest = parse_manifest(content[names.BUNDLE_MANIFEST_ENTRY])
    with tempfile.TemporaryDirectory() as folder:
        stranger = Publisher(Path(folder))
        label = stranger.publish_manifest(manifest, _files(manifest, content))
        return stranger.bundle(label, out)


def for_device_type(publisher: Publisher, good: Path, out: Path, device_type: str, version: str) -> Path:
    """The same model under another version, signed well by `publisher`, for another type of device."""
    content = entries(good)
    manifest = parse_manifest(content[names.BUNDLE_MANIFEST_ENTRY])
    other = msgspec.structs.replace(manifest, compatible=(device_type,), version=version, release=manifest.release + 1)
    return publisher.bundle(publisher.publish_manifest(other, _files(manifest, content)), out)


def manifest_changed(good: Path, out: Path) -> Path:
    """The manifest states a higher release than the one that was signed."""
    content = entries(good)
    manifest = parse_manifest(content[names.BUNDLE_MANIFEST_ENTRY])
    raw, _ = encode_manifest(msgspec.structs.replace(manifest, release=manifest.release + 1))
    return write_entries(out, {**content, names.BUNDLE_MANIFEST_ENTRY: raw})


def chunk_replaced(good: Path, out: Path, path: str | None = None) -> Path:
    """One bit of the first chunk of a file (default: the first program) is another; its name is as before."""
    content = entries(good)
    manifest = parse_manifest(content[names.BUNDLE_MANIFEST_ENTRY])
    entry = names.bundle_chunk_entry(manifest.file(path or manifest.engines[0].program).chunks[0])
    damaged = bytes([content[entry][0] ^ 1]) + content[entry][1:]
    return write_entries(out, {**content, entry: damaged})


def truncated(good: Path, out: Path, keep_bytes: int) -> Path:
    """Only the first bytes of the file."""
    out.write_bytes(good.read_bytes()[:keep_bytes])
    return out


def zeros(out: Path, length_bytes: int = 5_000_000_000) -> Path:
    """A file of zeros that takes no room on the disk."""
    with out.open("wb") as stream:
        stream.truncate(length_bytes)
    return out


def _files(manifest: Manifest, content: Mapping[str, bytes]) -> dict[str, bytes]:
    return {
        entry.path: b"".join(content[names.bundle_chunk_entry(chunk)] for chunk in entry.chunks)
        for entry in manifest.files
    }
