"""Taking uploads in: chunks by their hash, manifests to one side, then metadata that makes them count, if it verifies.

Nothing that was uploaded is visible to devices before the signed metadata names it. Reading it is catalog.py's matter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.api.serialization import DeserializationError

from cloud_sync.publish.durable import make_folder, write_file, writing
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import Published, verify_evidence
from cloud_sync.repository.catalog import Catalog, read_catalog
from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.envelope import COORDINATOR_TARGET_PATH, parse_coordinator_key
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import MANIFESTS_PREFIX, Evidence, manifest_target_path
from edge_agent.contract.manifest import Manifest, chunk_lengths, parse_manifest
from edge_agent.contract.reasons import Reason

_NEXT_COORDINATOR = "coordinator.next.json"  # as publish.coordinator has it: readable whenever the power goes
_MISSING_TOLD = 5
_WAITING_MAX = 1_000  # manifests that no metadata has named yet


class Missing(Rejected):
    """The metadata names what was not uploaded: upload that, then the metadata again."""


class Conflict(Rejected):
    """What is here already says otherwise."""


class Intake:
    """Uploads into one repository. Blocking, one at a time: call it from a thread. pinned_root: all trust begins there.

    waiting: a folder beside the repository for documents that no metadata names yet.
    """

    def __init__(self, repository: Repository, waiting: Path, pinned_root: bytes) -> None:
        self._repository = repository
        self._waiting = waiting
        self._pinned = pinned_root
        self._lock = threading.Lock()
        for folder in (waiting, *(repository.folder / name for name in ("metadata", "manifests", "chunks"))):
            make_folder(folder)

    def missing_chunks(self, asked: Iterable[str]) -> list[str]:
        """Which of these chunks are not here."""
        chunks = self._repository.folder / "chunks"
        return [sha256 for sha256 in dict.fromkeys(asked) if not (chunks / sha256).is_file()]

    def take_chunk(self, sha256: str, content: bytes) -> None:
        """Raises Rejected: chunk_mismatch; Unavailable when it cannot be written."""
        if sha256_hex(content) != sha256 or not content or len(content) > limits.CHUNK_BYTES:
            raise Rejected(f"these bytes are not the chunk {sha256[:12]}…", reason=Reason.CHUNK_MISMATCH)
        self._repository.write_chunk(sha256, content)  # also in place of one of that name: it may be damaged

    def take_manifest(self, name: str, version: str, raw: bytes, known: Mapping[tuple[str, str], str]) -> None:
        """known: digests by (name, version). Raises Rejected: malformed, version_conflict, too_large."""
        manifest = parse_manifest(raw)
        if (manifest.name, manifest.version) != (name, version):
            raise Rejected(f"this is the manifest of {manifest.label()}", reason=Reason.MALFORMED)
        _check_version(manifest, sha256_hex(raw), known)
        self._wait(raw)

    def take_coordinator(self, raw: bytes) -> None:
        """Raises Rejected: malformed or too_large."""
        parse_coordinator_key(raw)
        self._wait(raw)

    def take_metadata(self, evidence: Evidence, catalog: Catalog, known: Mapping[tuple[str, str], str]) -> Catalog:
        """Verify, check that all is here, then make it count; the new catalog.

        Raises Rejected (signature, malformed), Conflict (metadata_rollback, version_conflict), Missing, Unavailable.
        """
        with self._lock:
            roots = self._roots(evidence.root_chain)
            evidence = Evidence(roots, evidence.timestamp, evidence.tuf_snapshot, evidence.targets)
            published = verify_evidence(evidence)
            self._check_not_older(evidence, published, catalog)
            documents = self._documents(published, catalog, known)
            self._write(evidence, published, documents)
            return read_catalog(self._repository, self._pinned)

    def _roots(self, sent: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The chain from the pinned root, each version following the one before, and none that we know changed."""
        chain = sent if sent[:1] == (self._pinned,) else (self._pinned, *sent)
        first = _root_version(chain[0])
        for at, raw in enumerate(chain):
            if _root_version(raw) != first + at:
                raise Rejected("the root files do not follow each other", reason=Reason.SIGNATURE)
        for ours, theirs in zip(self._repository.root_files(), chain, strict=False):
            if ours != theirs:
                raise Rejected("a root file differs from the one that is here", reason=Reason.SIGNATURE)
        return chain

    def _check_not_older(self, evidence: Evidence, published: Published, catalog: Catalog) -> None:
        ours = catalog.published
        if ours is None or ours.evidence is None:
            return
        for role, version in ours.versions.items():
            if published.versions[role] < version:
                raise Conflict(
                    f"the metadata's {role} has version {published.versions[role]}, here it is {version}",
                    reason=Reason.METADATA_ROLLBACK,
                    next_step="Upload from the publisher's present repository",
                )
        if published.versions["targets"] == ours.versions["targets"] and evidence.targets != ours.evidence.targets:
            raise Conflict(
                "the metadata has the same version and other content than what is here",
                reason=Reason.METADATA_ROLLBACK,
                next_step="Sign again (`fleet refresh`), then upload",
            )

    def _documents(
        self, published: Published, catalog: Catalog, known: Mapping[tuple[str, str], str]
    ) -> dict[str, bytes]:
        """Manifests and the coordinator's key that are new, by target path, with all their chunks here."""
        found: dict[str, bytes] = {}
        missing: list[str] = []
        for path, target in published.targets.items():
            digest = target.hashes["sha256"]
            if path.startswith(MANIFESTS_PREFIX) and digest not in catalog.entries:
                raw = self._find(path, target)
                if raw is None:
                    missing.append(path)
                    continue
                manifest = parse_manifest(raw)
                if manifest_target_path(manifest.name, manifest.version) != path:
                    raise Rejected(f"{path} is the manifest of {manifest.label()}", reason=Reason.MALFORMED)
                _check_version(manifest, digest, known)
                missing += self._chunks_missing(manifest)
                found[path] = raw
            elif path == COORDINATOR_TARGET_PATH:
                raw = self._find(path, target)
                if raw is None:
                    missing.append(path)
                else:
                    parse_coordinator_key(raw)
                    found[path] = raw
        if missing:
            named = ", ".join(missing[:_MISSING_TOLD])
            raise Missing(
                f"{len(missing)} parts that the metadata names were not uploaded: {named}",
                reason=Reason.TRUNCATED,
                next_step="Upload them first: `fleet snapshot publish --all` does it in the right order",
            )
        return found

    def _chunks_missing(self, manifest: Manifest) -> list[str]:
        return [
            f"chunks/{sha256}"
            for entry in manifest.files
            for sha256, length in zip(entry.chunks, chunk_lengths(entry), strict=True)
            if not self._repository.has_chunk(sha256, length)
        ]

    def _find(self, path: str, target: TargetFile) -> bytes | None:
        digest = target.hashes["sha256"]
        for place in (self._waiting / digest, self._repository.folder / path):
            if place.is_file() and place.stat().st_size == target.length:
                raw = place.read_bytes()
                if sha256_hex(raw) == digest:
                    return raw
        return None

    def _write(self, evidence: Evidence, published: Published, documents: Mapping[str, bytes]) -> None:
        """In the order in which files name each other, timestamp.json last: until then nothing has changed."""
        repository = self._repository
        for path, raw in documents.items():
            repository.write_target(_NEXT_COORDINATOR if path == COORDINATOR_TARGET_PATH else path, raw)
        first = _root_version(evidence.root_chain[0])
        for at, raw in enumerate(evidence.root_chain):
            repository.write_metadata(f"{first + at}.root.json", raw)
        repository.write_metadata(f"{published.versions['targets']}.targets.json", evidence.targets)
        repository.write_metadata(f"{published.versions['tuf_snapshot']}.snapshot.json", evidence.tuf_snapshot)
        repository.write_metadata("timestamp.json", evidence.timestamp)
        if COORDINATOR_TARGET_PATH in documents:
            repository.move_target(_NEXT_COORDINATOR, COORDINATOR_TARGET_PATH)
        with writing(self._waiting):
            for raw in documents.values():
                (self._waiting / sha256_hex(raw)).unlink(missing_ok=True)

    def _wait(self, raw: bytes) -> None:
        with self._lock:
            with writing(self._waiting):
                waiting = sorted(self._waiting.iterdir(), key=lambda path: path.stat().st_mtime_ns)
                for path in waiting[: max(0, len(waiting) - _WAITING_MAX + 1)]:
                    path.unlink(missing_ok=True)
            write_file(self._waiting / sha256_hex(raw), raw)


def _check_version(manifest: Manifest, digest: str, known: Mapping[tuple[str, str], str]) -> None:
    earlier = known.get((manifest.name, manifest.version))
    if earlier is not None and earlier != digest:
        raise Conflict(
            f"{manifest.label()} is known here with other bytes (digest {earlier[:12]}…)",
            reason=Reason.VERSION_CONFLICT,
        )


def _root_version(raw: bytes) -> int:
    try:
        metadata: Metadata[Root] = Metadata.from_bytes(raw)
        return int(metadata.signed.version)
    except (RepositoryError, DeserializationError, ValueError) as error:
        raise Rejected(f"a root file is malformed: {error}", reason=Reason.SIGNATURE) from error
