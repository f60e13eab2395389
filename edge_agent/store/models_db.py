"""models.db: snapshots, their chunks and the evidence that admitted them. What a snapshot is worth is decided
elsewhere.

Invariants:
- an offer becomes a row in `snapshot` in a transaction that found every chunk of its manifest in `chunk` (chunks may be
  lost later, by damage: then they are missing, and read as such);
- a chunk is stored under its own SHA-256, checked before the write and after every read.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.contract import limits
from edge_agent.contract.errors import Corrupt, Rejected
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.contract.reasons import Reason
from edge_agent.store.memfd import SealedFile
from edge_agent.store.sqlite import connect, file_facts, forget_cached_pages, row, rows, sync_folder, translated, upsert

SCHEMA_VERSION = 1
PAGES_OF_A_CHUNK_MAX = 270  # 257 with bytes, one with the row, some for the index and for what a removed row left
# Additive only: an older agent on a newer database still finds its own columns and serves.
MIGRATIONS: dict[int, str] = {
    1: """
        CREATE TABLE IF NOT EXISTS snapshot(
            digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, release INTEGER NOT NULL,
            admitted_unix_ms INTEGER NOT NULL, manifest BLOB NOT NULL, evidence BLOB NOT NULL);
        CREATE TABLE IF NOT EXISTS offer(
            digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, release INTEGER NOT NULL,
            begun_unix_ms INTEGER NOT NULL, manifest BLOB NOT NULL, evidence BLOB NOT NULL);
        CREATE TABLE IF NOT EXISTS chunk(sha256 BLOB PRIMARY KEY, data BLOB NOT NULL);
        CREATE TABLE IF NOT EXISTS proof(
            digest TEXT NOT NULL, engine TEXT NOT NULL, proven_unix_ms INTEGER NOT NULL, detail TEXT NOT NULL,
            PRIMARY KEY(digest, engine));
        PRAGMA user_version=1;
    """,
}


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A visible snapshot, as stored; `manifest_raw` and `evidence_raw` are to be verified before they are believed."""

    digest: str
    name: str
    version: str
    release: int
    manifest_raw: bytes
    evidence_raw: bytes


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A piece of a scrub: chunks that are damaged or missing, and where to go on (None: at the end)."""

    damaged: tuple[str, ...]
    next_chunk: int | None


class ModelsDb:
    """One models.db; not for several threads at once."""

    def __init__(self, path: Path, *, immutable: bool = False) -> None:
        """Raises Corrupt, or Unavailable (disk_full, read_only)."""
        self.path = path
        self.immutable = immutable
        self._db = connect(path, journal="DELETE", immutable=immutable)
        with translated(path.name):
            if not immutable:
                self._migrate()
            self._check_readable()

    def close(self) -> None:
        """Close the database."""
        self._db.conn.close()

    def facts(self) -> dict[str, Any]:
        """About the file, for people. Raises Corrupt."""
        with translated(self.path.name):
            return file_facts(self._db)

    # ---- offers: a snapshot on its way in

    def begin_offer(
        self, digest: str, manifest: Manifest, manifest_raw: bytes, evidence_raw: bytes, at_unix_ms: int
    ) -> None:
        """Remember a verified manifest whose chunks are to come; again is harmless.

        Raises Rejected (version_conflict) when this name@version is known with another digest.
        """
        with translated(self.path.name), self._db.atomic():
            for table in ("snapshot", "offer"):
                other = row(
                    self._db,
                    f"SELECT digest FROM {table} WHERE name=? AND version=? AND digest<>?",
                    (manifest.name, manifest.version, digest),
                )
                if other:
                    raise Rejected(
                        f"{manifest.label()} is known here with other bytes ({other[0][:12]}, offered {digest[:12]})",
                        reason=Reason.VERSION_CONFLICT,
                    )
            if row(self._db, "SELECT 1 FROM snapshot WHERE digest=?", (digest,)):
                self._db.execute(  # also mends a row whose bytes were damaged
                    "UPDATE snapshot SET manifest=?1, evidence=?2, name=?3, version=?4, release=?5 WHERE digest=?6",
                    [manifest_raw, evidence_raw, manifest.name, manifest.version, manifest.release, digest],
                )
                return
            upsert(
                self._db,
                "offer",
                {
                    "digest": digest,
                    "name": manifest.name,
                    "version": manifest.version,
                    "release": manifest.release,
                    "begun_unix_ms": at_unix_ms,
                    "manifest": manifest_raw,
                    "evidence": evidence_raw,
                },
                key="digest",
            )

    def drop_offer(self, digest: str) -> None:
        """Forget an offer; its chunks go with the next collection."""
        with translated(self.path.name), self._db.atomic():
            self._db.execute("DELETE FROM offer WHERE digest=?", [digest])

    def offers(self) -> tuple[tuple[str, int], ...]:
        """(digest, begun_unix_ms) of every offer."""
        with translated(self.path.name):
            found = rows(self._db, "SELECT digest, begun_unix_ms FROM offer")
        return tuple((str(digest), at) for digest, at in found if isinstance(at, int))

    def missing_chunks(self, manifest: Manifest) -> tuple[str, ...]:
        """Chunks of this manifest that are not here, in order."""
        with translated(self.path.name):
            return tuple(
                sha256
                for sha256 in manifest.chunk_hashes()
                if row(self._db, "SELECT 1 FROM chunk WHERE sha256=?", (bytes.fromhex(sha256),)) is None
            )

    def put_chunk(self, sha256: str, data: bytes) -> None:
        """Store one chunk, in one short transaction. Raises Rejected (chunk_mismatch, too_large).

        Whether a verified manifest names it is checked by the caller, who has the manifests parsed.
        """
        if len(data) > limits.CHUNK_BYTES:
            raise Rejected(f"a chunk has {len(data)} bytes, at most {limits.CHUNK_BYTES}", reason=Reason.TOO_LARGE)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Rejected(f"chunk {sha256[:12]} has other bytes than its name says", reason=Reason.CHUNK_MISMATCH)
        with translated(self.path.name), self._db.atomic():
            self._db.execute("INSERT OR REPLACE INTO chunk(sha256, data) VALUES(?, ?)", [bytes.fromhex(sha256), data])

    def admit(self, digest: str, manifest: Manifest, at_unix_ms: int) -> None:
        """Make an offer visible: one transaction that finds every chunk. On return no power cut takes it back, nor any
        chunk of it.

        Raises Rejected (truncated) when one is missing.
        """
        with translated(self.path.name):
            with self._db.atomic():
                missing = self.missing_chunks(manifest)
                if missing:
                    raise Rejected(f"{manifest.label()}: {len(missing)} chunks are missing", reason=Reason.TRUNCATED)
                self._db.execute(
                    "INSERT OR IGNORE INTO snapshot(digest, name, version, release, admitted_unix_ms, manifest,"
                    " evidence) SELECT digest, name, version, release, ?, manifest, evidence FROM offer WHERE digest=?",
                    [at_unix_ms, digest],
                )
                self._db.execute("DELETE FROM offer WHERE digest=?", [digest])
            sync_folder(self.path.parent)  # once for a snapshot; synchronous=EXTRA would do it with every chunk

    # ---- snapshots that are visible

    def snapshots(self) -> tuple[StoredSnapshot, ...]:
        """All visible snapshots whose manifest still has its digest; others are passed over (a scrub tells of them)."""
        with translated(self.path.name):
            numbers = rows(self._db, "SELECT rowid FROM snapshot ORDER BY admitted_unix_ms")
        found = (self._snapshot(number) for (number,) in numbers)
        return tuple(snapshot for snapshot in found if snapshot is not None)

    def _snapshot(self, number: int) -> StoredSnapshot | None:
        """One row, None when it cannot be read or is not what was written: damage of one row costs no other."""
        try:
            with translated(self.path.name):
                found = row(
                    self._db,
                    "SELECT digest, name, version, release, manifest, evidence FROM snapshot WHERE rowid=?",
                    (number,),
                )
            digest, name, version, release, manifest, evidence = found or (None,) * 6
            snapshot = StoredSnapshot(str(digest), str(name), str(version), int(release), manifest, evidence)
        except (Corrupt, ValueError, TypeError):
            return None
        if not isinstance(manifest, bytes) or not isinstance(evidence, bytes):
            return None
        return snapshot if hashlib.sha256(manifest).hexdigest() == digest else None

    def chunk_rows(self) -> Iterator[bytes]:
        """The bytes of every row that can be reached without the index, from both ends; not verified."""
        numbers: dict[int, None] = {}
        for order in ("ASC", "DESC"):
            with contextlib.suppress(Corrupt), translated(self.path.name):
                for (number,) in self._db.execute(f"SELECT rowid FROM chunk ORDER BY rowid {order}"):
                    numbers[int(number)] = None
        for number in numbers:
            found = None
            with contextlib.suppress(Corrupt), translated(self.path.name):
                found = row(self._db, "SELECT data FROM chunk WHERE rowid=?", (number,))
            if found and isinstance(found[0], bytes):
                yield found[0]

    def read_chunk(self, sha256: str) -> bytes:
        """The bytes, hashed after the read. Raises Corrupt (damage) when they are missing or others."""
        with translated(self.path.name):
            found = row(self._db, "SELECT data FROM chunk WHERE sha256=?", (bytes.fromhex(sha256),))
        data = found[0] if found else None
        if not isinstance(data, bytes) or hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"chunk {sha256[:12]} is damaged", reason=Reason.DAMAGE)
        return data

    def open_sealed(self, manifest: Manifest, path: str) -> int:
        """A sealed memory file with the bytes of this file: every chunk and the whole hashed on the way. Caller closes
        it.

        Raises Corrupt (damage).
        """
        entry = manifest.file(path)
        whole = hashlib.sha256()
        forget_cached_pages(self._db)
        data, before = b"", ""
        with SealedFile(f"{manifest.label()}/{path}") as sealed:
            for sha256 in entry.chunks:
                if sha256 != before:  # a run of the same chunk (zeros) is read and hashed once
                    data, before = self.read_chunk(sha256), sha256
                whole.update(data)
                sealed.write(data)
            if whole.hexdigest() != entry.sha256:
                raise Corrupt(
                    f"{manifest.label()}: {path} does not have the hash that was signed", reason=Reason.DAMAGE
                )
            return sealed.seal()

    def scrub(self, manifest: Manifest, first_chunk: int, chunks_max: int) -> Scrubbed:
        """Read and hash some chunks of a snapshot, beginning at position first_chunk."""
        hashes = manifest.chunk_hashes()
        end = min(first_chunk + chunks_max, len(hashes))
        forget_cached_pages(self._db)
        damaged = []
        for sha256 in hashes[first_chunk:end]:
            try:
                self.read_chunk(sha256)
            except Corrupt:
                damaged.append(sha256)
        return Scrubbed(tuple(damaged), end if end < len(hashes) else None)

    def discard_chunks(self, hashes: tuple[str, ...]) -> None:
        """Remove damaged chunks, so that they are missing and can be offered again."""
        with translated(self.path.name), self._db.atomic():
            for sha256 in hashes:
                self._db.execute("DELETE FROM chunk WHERE sha256=?", [bytes.fromhex(sha256)])

    def put_snapshot(self, snapshot: StoredSnapshot, at_unix_ms: int) -> None:
        """Take over a snapshot row as it is (salvage): visible at once, chunks may be missing."""
        with translated(self.path.name), self._db.atomic():
            upsert(
                self._db,
                "snapshot",
                {
                    "digest": snapshot.digest,
                    "name": snapshot.name,
                    "version": snapshot.version,
                    "release": snapshot.release,
                    "admitted_unix_ms": at_unix_ms,
                    "manifest": snapshot.manifest_raw,
                    "evidence": snapshot.evidence_raw,
                },
                key="digest",
            )

    def remove_snapshot(self, digest: str) -> None:
        """Make a snapshot invisible; its chunks go with the next collection."""
        with translated(self.path.name), self._db.atomic():
            self._db.execute("DELETE FROM snapshot WHERE digest=?", [digest])
            self._db.execute("DELETE FROM proof WHERE digest=?", [digest])

    def collect_garbage(self, chunks_max: int) -> int:
        """Remove at most chunks_max chunks that no snapshot and no offer names, and give their pages back; how many.

        A manifest that is damaged names nothing: it must not stop the collection for good.
        """
        with translated(self.path.name):
            named: set[str] = set()
            manifests = "SELECT digest, manifest FROM snapshot UNION ALL SELECT digest, manifest FROM offer"
            for digest, raw in rows(self._db, manifests):
                if isinstance(raw, bytes) and hashlib.sha256(raw).hexdigest() == digest:
                    named.update(parse_manifest(raw).chunk_hashes())
            stored = [bytes(sha256) for (sha256,) in rows(self._db, "SELECT sha256 FROM chunk")]
            garbage = [sha256 for sha256 in stored if sha256.hex() not in named][:chunks_max]
            if garbage:
                with self._db.atomic():
                    for sha256 in garbage:
                        self._db.execute("DELETE FROM chunk WHERE sha256=?", [sha256])
                # A script is stepped to its end; `execute` would take one step, which gives back one page.
                # EXTRA: SQLite cuts the file off once its journal is removed, and does not put pages that it cuts off
                # into that journal. Should a power cut keep the cut and lose the removal, the journal would come back
                # and bring back a database without them.
                pages = len(garbage) * PAGES_OF_A_CHUNK_MAX
                self._db.executescript(
                    f"PRAGMA synchronous=EXTRA; PRAGMA incremental_vacuum({pages}); PRAGMA synchronous=FULL"
                )
            return len(garbage)

    def used_bytes(self) -> int:
        """Bytes of the pages in use; free pages count as free."""
        with translated(self.path.name):
            (pages,) = row(self._db, "PRAGMA page_count") or (0,)
            (free,) = row(self._db, "PRAGMA freelist_count") or (0,)
            (size,) = row(self._db, "PRAGMA page_size") or (0,)
        return (int(pages) - int(free)) * int(size)

    # ---- proofs

    def record_proof(self, digest: str, engine: str, detail: str, at_unix_ms: int) -> None:
        """The result of the last proof on this engine, part of the evidence (detail: JSON)."""
        with translated(self.path.name), self._db.atomic():
            upsert(
                self._db,
                "proof",
                {"digest": digest, "engine": engine, "proven_unix_ms": at_unix_ms, "detail": detail},
                key="digest, engine",
            )

    def proofs(self, digest: str) -> tuple[tuple[str, int, str], ...]:
        """(engine, proven_unix_ms, detail) of this snapshot."""
        with translated(self.path.name):
            found = rows(self._db, "SELECT engine, proven_unix_ms, detail FROM proof WHERE digest=?", (digest,))
        return tuple((str(engine), at, str(detail)) for engine, at, detail in found if isinstance(at, int))

    def _migrate(self) -> None:
        (version,) = row(self._db, "PRAGMA user_version") or (0,)
        for step in range(int(version) + 1, SCHEMA_VERSION + 1):
            self._db.executescript(MIGRATIONS[step])

    def _check_readable(self) -> None:
        """Read every small table once: a structure that cannot be read shows now, not in the middle of a fallback.

        Of a file that is only read, nothing is asked that serving does not need.
        """
        checks = (
            "SELECT rowid, admitted_unix_ms FROM snapshot",
            "SELECT digest, manifest, evidence FROM snapshot",
            "SELECT digest, begun_unix_ms, manifest FROM offer",
            "SELECT digest, proven_unix_ms, detail FROM proof",
            "SELECT count(*) FROM chunk",
        )
        for statement in checks[:1] if self.immutable else checks:
            self._db.execute(statement).fetchall()
