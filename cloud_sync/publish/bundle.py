"""Bundles: one published snapshot, its chunks and the present signed metadata in one ZIP file.

The device's reader is `edge_agent.offer`; the names inside are `edge_agent.contract.evidence`'s.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from cloud_sync.publish.durable import replacing
from cloud_sync.publish.pack import Progress, PublishedSnapshot, Silence, published_snapshots
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import Published, read_published
from edge_agent.contract import evidence as names
from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Bug, Rejected
from edge_agent.contract.manifest import Manifest, chunk_lengths, parse_manifest
from edge_agent.contract.reasons import Reason

# ZIP's first day: the same snapshot and metadata give the same bundle, byte for byte.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundled:
    """What was written.

    expires: when devices stop taking new content from this bundle (the first role's date).
    """

    path: Path
    manifest: Manifest
    digest: str
    bytes: int
    expires: datetime


def write_bundle(repository: Repository, label: str, out: Path, *, progress: Progress | None = None) -> Bundled:
    """Write the bundle of `label` (name@version) to `out`, atomically; chunks pass through one by one.

    Raises Rejected: no such snapshot. Unavailable: cannot be written. Corrupt: the repository is damaged.
    """
    say = progress or Silence()
    repository.require()
    published = read_published(repository)
    snapshot = find(repository, published, label)
    manifest = snapshot.manifest
    if published.evidence is None or published.expires is None:
        raise Bug("a repository with a snapshot has no evidence")
    say.step(f"bundling {manifest.label()}", sum(length for _, length in _chunks(manifest)))
    with (
        replacing(out) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as bundle,
    ):
        for name, content in _head(published.evidence, snapshot.raw):
            _add(bundle, name, content)
        for sha256, length in _chunks(manifest):
            _add(bundle, names.bundle_chunk_entry(sha256), repository.read_chunk(sha256, length))
            say.advance(length)
    return Bundled(out, manifest, snapshot.digest, out.stat().st_size, published.expires)


def find(repository: Repository, published: Published, label: str) -> PublishedSnapshot:
    """The published snapshot with this name@version. Raises Rejected (unknown_version) with close matches."""
    snapshots = {each.manifest.label(): each for each in published_snapshots(repository, published)}
    if label in snapshots:
        return snapshots[label]
    close = get_close_matches(label, snapshots, n=3, cutoff=0.4)
    raise Rejected(
        f"there is no snapshot {label} in {repository.folder}",
        reason=Reason.UNKNOWN_VERSION,
        next_step=f"Did you mean {' or '.join(close)}?" if close else "See `fleet snapshot list`",
    )


def read_bundle_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest that a bundle file *says* it carries, and its digest; no signature is checked.

    Raises Rejected (malformed) for what is not a bundle.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            info = bundle.getinfo(names.BUNDLE_MANIFEST_ENTRY)
            if info.file_size > limits.MANIFEST_BYTES_MAX:
                raise Rejected(f"the manifest in {path} is too large", reason=Reason.TOO_LARGE)
            raw = bundle.read(info)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError, OSError) as error:
        raise Rejected(f"{path} is not a Holdfast bundle: {error}", reason=Reason.MALFORMED) from error
    return parse_manifest(raw), sha256_hex(raw)


def _head(evidence: names.Evidence, manifest_raw: bytes) -> Iterator[tuple[str, bytes]]:
    """All but the chunks; FORMAT first, so that the file's beginning says what it is."""
    yield names.BUNDLE_FORMAT_ENTRY, names.BUNDLE_FORMAT.encode()
    for version, root in enumerate(evidence.root_chain, start=1):
        yield names.bundle_root_entry(version), root
    yield names.BUNDLE_TIMESTAMP_ENTRY, evidence.timestamp
    yield names.BUNDLE_TUF_SNAPSHOT_ENTRY, evidence.tuf_snapshot
    yield names.BUNDLE_TARGETS_ENTRY, evidence.targets
    yield names.BUNDLE_MANIFEST_ENTRY, manifest_raw


def _chunks(manifest: Manifest) -> dict[tuple[str, int], None]:
    """Each different chunk once, in the order of the files."""
    return {pair: None for entry in manifest.files for pair in zip(entry.chunks, chunk_lengths(entry), strict=True)}


def _add(bundle: zipfile.ZipFile, name: str, content: bytes) -> None:
    bundle.writestr(zipfile.ZipInfo(name, date_time=_NO_TIME), content)
