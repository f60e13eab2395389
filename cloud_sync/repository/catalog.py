"""What the verified repository holds: snapshots by name, version and digest, and the coordinator that it names.

Changing it is intake.py's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from cloud_sync.publish.coordinator import read_coordinator
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import Published, read_published
from edge_agent.contract.envelope import CoordinatorKey, parse_coordinator_key
from edge_agent.contract.errors import Corrupt, Rejected
from edge_agent.contract.evidence import MANIFESTS_PREFIX, manifest_target_path
from edge_agent.contract.manifest import Manifest, parse_manifest

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """One snapshot. bytes: of all its files. path, length: of its manifest in the repository."""

    name: str
    version: str
    release: int
    digest: str
    bytes: int
    path: str
    length: int


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that the metadata names and that is here, by digest. published: None before anything was uploaded."""

    published: Published | None
    entries: Mapping[str, Entry]
    coordinator: CoordinatorKey | None
    expires: datetime | None

    def find(self, name: str, version: str) -> Entry | None:
        """The snapshot with this name and version."""
        return next((e for e in self.entries.values() if (e.name, e.version) == (name, version)), None)


def without(catalog: Catalog, digest: str) -> Catalog:
    """The catalog without a snapshot whose manifest is damaged: the next upload is told that it is missing."""
    return replace(catalog, entries={one: entry for one, entry in catalog.entries.items() if one != digest})


EMPTY = Catalog(None, {}, None, None)


def read_catalog(repository: Repository, pinned_root: bytes) -> Catalog:
    """Verify the repository's metadata and read its manifests; a damaged manifest is left out, with a log line.

    Raises Rejected (begun with another root) or Corrupt (the metadata does not verify).
    """
    published = read_published(repository, pinned_root)
    if published.evidence is None:
        return EMPTY
    entries: dict[str, Entry] = {}
    for path, target in published.targets.items():
        if not path.startswith(MANIFESTS_PREFIX):
            continue  # the coordinator's key
        digest = target.hashes["sha256"]
        try:
            raw = repository.read_target(path, length=target.length, sha256=digest)
            entries[digest] = entry_of(parse_manifest(raw), digest, len(raw))
        except (Corrupt, Rejected) as error:
            log.error("manifest_unusable", path=path, snapshot=digest, error=str(error))
    return Catalog(published, entries, _coordinator(repository, published), published.expires)


def entry_of(manifest: Manifest, digest: str, length: int) -> Entry:
    """The entry of a manifest with this digest and length in bytes."""
    return Entry(
        manifest.name,
        manifest.version,
        manifest.release,
        digest,
        sum(file.length for file in manifest.files),
        manifest_target_path(manifest.name, manifest.version),
        length,
    )


def _coordinator(repository: Repository, published: Published) -> CoordinatorKey | None:
    try:
        raw = read_coordinator(repository, published)
        return None if raw is None else parse_coordinator_key(raw)
    except (Corrupt, Rejected) as error:
        log.error("coordinator_key_unusable", error=str(error))
        return None
