"""The snapshots of this device behind one async face: store thread, factory files and verification together.

What is loaded, repaired or removed is decided elsewhere; nothing leaves here unverified.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.evidence import decode_evidence, encode_evidence
from edge_agent.contract.manifest import EngineProfile, Manifest
from edge_agent.contract.reasons import Reason
from edge_agent.core.state import Known
from edge_agent.store.models_db import ModelsDb, Scrubbed, StoredSnapshot
from edge_agent.store.opening import heal
from edge_agent.store.thread import Priority, StoreThread
from edge_agent.trust.chain import verify_admitted
from edge_agent.trust.verified import TufVersions, VerifiedManifest

log = structlog.get_logger()


class Library:
    """Verified manifests by digest, and their bytes."""

    def __init__(
        self,
        thread: StoreThread,
        path: Path,
        models: ModelsDb | None,
        factories: Mapping[str, Path],
        pinned_root: bytes,
    ) -> None:
        self._thread = thread
        self._path = path
        self._models = models
        self._factory_paths = factories
        self._factories: dict[str, ModelsDb] = {}
        self._pinned_root = pinned_root
        self._known: dict[str, VerifiedManifest] = {}
        self._admitted: set[str] = set()
        self._in_factory: dict[str, ModelsDb] = {}

    # ---- at a boot

    async def scan(self, model_names: frozenset[str]) -> tuple[Known, ...]:
        """Verify the evidence of every stored snapshot of these models; what does not verify is passed over."""
        return await self._thread.call(self._scan, model_names, priority=Priority.SAFETY)

    def _scan(self, model_names: frozenset[str]) -> tuple[Known, ...]:
        found: dict[str, Known] = {}
        for source, snapshot in self._stored():
            try:
                verified = verify_admitted(
                    decode_evidence(snapshot.evidence_raw), snapshot.manifest_raw, self._pinned_root
                )
            except HoldfastError as error:
                log.error(
                    "snapshot_not_believed", snapshot=snapshot.digest, version=snapshot.version, detail=error.message
                )
                continue
            manifest = verified.manifest
            if manifest.name not in model_names:
                continue
            self._known[verified.digest] = verified
            self._admitted.add(verified.digest)
            if source is not self._models:
                self._in_factory[verified.digest] = source
            missing = bool(self._missing(source, manifest)) and verified.digest not in self._in_factory
            factory = verified.digest in self._in_factory
            found[verified.digest] = known_snapshot(manifest, verified.digest, factory=factory, damaged=missing)
        return tuple(found.values())

    def _stored(self) -> Iterator[tuple[ModelsDb, StoredSnapshot]]:
        sources = [*self._open_factories(), *([self._models] if self._models else [])]
        for source in sources:
            try:
                snapshots = source.snapshots()
            except HoldfastError as error:
                log.error("store_not_readable", file=source.path.name, detail=error.message)
                continue
            for snapshot in snapshots:
                yield source, snapshot

    def _open_factories(self) -> list[ModelsDb]:
        for model, path in self._factory_paths.items():
            if model in self._factories:
                continue
            try:
                self._factories[model] = ModelsDb(path, immutable=True)
            except HoldfastError as error:
                log.error("factory_not_readable", model=model, file=str(path), detail=error.message,
                          next_step="Install the factory snapshot again: edge-agent factory")  # fmt: skip
        return list(self._factories.values())

    @staticmethod
    def _missing(source: ModelsDb, manifest: Manifest) -> tuple[str, ...]:
        try:
            return source.missing_chunks(manifest)
        except HoldfastError:
            return manifest.chunk_hashes()

    # ---- reading

    def manifest(self, digest: str) -> Manifest | None:
        """The verified manifest with this digest, if it was ever verified in this process."""
        verified = self._known.get(digest)
        return verified.manifest if verified else None

    def is_admitted(self, digest: str) -> bool:
        """Whether this snapshot is in the store or a factory file, whole or damaged; an offer of it is not enough."""
        return digest in self._admitted

    def seen_versions(self) -> TufVersions:
        """The highest metadata versions in the evidence of all snapshots here; `Marks` knows of more."""
        seen = TufVersions()
        for verified in self._known.values():
            seen = seen.highest(verified.versions)
        return seen

    async def verified(self, digest: str) -> VerifiedManifest:
        """Verify again from the stored evidence alone. Raises Corrupt (damage) or Rejected (signature)."""
        return await self._thread.call(self._verify, digest, priority=Priority.SAFETY)

    def _verify(self, digest: str) -> VerifiedManifest:
        for source, snapshot in self._stored():
            if snapshot.digest == digest:
                try:
                    evidence = decode_evidence(snapshot.evidence_raw)
                    verified = verify_admitted(evidence, snapshot.manifest_raw, self._pinned_root)
                except Rejected as error:  # it verified when it was admitted: the stored bytes are others now
                    raise Corrupt(f"stored evidence is damaged: {error.message}", reason=Reason.DAMAGE) from error
                self._known[digest] = verified
                if source is not self._models:
                    self._in_factory[digest] = source
                return verified
        raise Corrupt(f"snapshot {digest[:12]} is not in the store any more", reason=Reason.DAMAGE)

    async def open_sealed(self, digest: str, manifest: Manifest, path: str) -> int:
        """A sealed descriptor with verified bytes, from the store or the factory file. Raises Corrupt (damage)."""
        return await self._thread.call(self._open_sealed, digest, manifest, path, priority=Priority.SAFETY)

    def _open_sealed(self, digest: str, manifest: Manifest, path: str) -> int:
        factory = self._in_factory.get(digest)
        sources = [source for source in (self._models, factory) if source is not None]
        failure: HoldfastError = Corrupt(f"{manifest.label()} is in no store", reason=Reason.DAMAGE)
        for source in sources:
            try:
                return source.open_sealed(manifest, path)
            except Corrupt as error:
                failure = error
            except OSError as error:  # no descriptors or no memory for the sealed file
                raise Unavailable(f"cannot hold {path} in memory: {error}", reason=Reason.NO_WORKER) from error
        raise failure

    async def scrub(self, manifest: Manifest, first_chunk: int, chunks_max: int) -> Scrubbed:
        """Hash some chunks again; damaged ones are discarded, so that they can be offered again."""
        return await self._thread.call(self._scrub, manifest, first_chunk, chunks_max, priority=Priority.BULK)

    def _scrub(self, manifest: Manifest, first_chunk: int, chunks_max: int) -> Scrubbed:
        if self._models is None:
            return Scrubbed((), None)
        scrubbed = self._models.scrub(manifest, first_chunk, chunks_max)
        if scrubbed.damaged and not self._models.immutable:
            self._writing(lambda models: models.discard_chunks(scrubbed.damaged))
        return scrubbed

    async def scrub_factory(self, digest: str, manifest: Manifest, first_chunk: int, chunks_max: int) -> Scrubbed:
        """Hash some chunks of a factory snapshot again. Raises Corrupt."""
        source = self._in_factory[digest]
        return await self._thread.call(source.scrub, manifest, first_chunk, chunks_max, priority=Priority.BULK)

    async def discard_damage(self, manifest: Manifest) -> None:
        """Hash every chunk of a snapshot again, so that `missing` tells everything that has to be offered."""
        position: int | None = 0
        while position is not None:  # each piece moves on; the manifest bounds them
            position = (await self.scrub(manifest, position, limits.GARBAGE_CHUNKS_AT_ONCE)).next_chunk

    def is_in_factory(self, digest: str) -> bool:
        """Whether the read-only factory file holds this snapshot: nothing to repair there."""
        return digest in self._in_factory

    # ---- writing

    async def begin_offer(self, verified: VerifiedManifest) -> tuple[str, ...]:
        """Take in a verified manifest; the chunks that are wanted. Raises Rejected (version_conflict), Unavailable."""
        if verified.digest in self._known:
            await self.discard_damage(verified.manifest)
        return await self._thread.call(self._begin_offer, verified)

    def _begin_offer(self, verified: VerifiedManifest) -> tuple[str, ...]:
        raw = encode_evidence(verified.evidence)
        now = _unix_ms()
        self._writing(lambda m: m.begin_offer(verified.digest, verified.manifest, verified.raw, raw, now))
        self._known[verified.digest] = verified
        return self._writable().missing_chunks(verified.manifest)

    async def put_chunk(self, sha256: str, data: bytes) -> None:
        """Store a chunk that an offer asked for.

        Raises Rejected (chunk_mismatch), Unavailable (disk_full, read_only).
        """
        await self._thread.call(
            lambda: self._writing(lambda models: models.put_chunk(sha256, data)), priority=Priority.BULK
        )

    async def missing(self, digest: str) -> tuple[str, ...]:
        """Chunks of this snapshot that are not in the store."""
        verified = self._known[digest]
        return await self._thread.call(lambda: self._writable().missing_chunks(verified.manifest))

    async def admit(self, digest: str) -> None:
        """Make a complete offer visible. Raises Rejected (truncated)."""
        verified = self._known[digest]
        await self._thread.call(lambda: self._writing(lambda m: m.admit(digest, verified.manifest, _unix_ms())))
        self._admitted.add(digest)

    async def drop_offer(self, digest: str) -> None:
        """Forget a half-received snapshot."""
        await self._thread.call(lambda: self._writing(lambda models: models.drop_offer(digest)))
        if not self.is_admitted(digest):
            self._known.pop(digest, None)

    async def drop_offers_but(self, kept: frozenset[str]) -> None:
        """Forget every half-received snapshot but these, with the chunks that only they needed."""
        if self._models is None or self._models.immutable:
            return
        offers = await self._thread.call(self._models.offers, priority=Priority.BULK)
        for digest, _ in offers:
            if digest not in kept:
                await self.drop_offer(digest)
        if offers:
            await self.collect_garbage()

    async def remove(self, digest: str) -> None:
        """Remove a snapshot and what only it needed."""
        await self._thread.call(
            lambda: self._writing(lambda models: models.remove_snapshot(digest)), priority=Priority.BULK
        )
        if not self.is_in_factory(digest):
            self._admitted.discard(digest)
            self._known.pop(digest, None)
        await self.collect_garbage()

    async def collect_garbage(self) -> None:
        """Remove chunks that nothing names, in pieces."""
        while await self._thread.call(  # each pass removes at least one chunk
            lambda: self._writing(lambda models: models.collect_garbage(limits.GARBAGE_CHUNKS_AT_ONCE)),
            priority=Priority.BULK,
        ):
            continue

    async def used_bytes(self) -> int:
        """Bytes that the snapshots take on disk."""
        models = self._models
        return await self._thread.call(models.used_bytes, priority=Priority.BULK) if models else 0

    async def record_proof(self, digest: str, profile: EngineProfile, answer: dict[str, Any]) -> None:
        """Keep the result of the proof with the snapshot; serving does not wait for a disk that cannot be written.

        A proof that says nothing new is not written: respawns must not wear a flash disk out, nor wait for a disk.
        """
        keep = ("device", "engine_version", "load_ms", "first_run_ms", "resident_bytes", "proof")
        said = {key: answer.get(key) for key in keep}

        def record(models: ModelsDb) -> None:
            proofs = [detail for engine, _, detail in models.proofs(digest) if engine == profile.engine]
            if not any(_says_the_same(detail, said) for detail in proofs):
                models.record_proof(digest, profile.engine, json.dumps(said), _unix_ms())

        try:
            await self._thread.call(lambda: self._writing(record), priority=Priority.BULK)
        except HoldfastError as error:
            log.warning("proof_not_recorded", snapshot=digest, detail=error.message)

    def _writable(self) -> ModelsDb:
        """The store, opened anew if it could not be written so far. Raises Unavailable (disk_full, read_only)."""
        if self._models is None or self._models.immutable:
            try:
                fresh = ModelsDb(self._path)
            except Corrupt as error:
                raise Unavailable(f"the store cannot be written: {error.message}", reason=Reason.READ_ONLY) from error
            log.info("models_db_writable_again")
            if self._models is not None:
                self._models.close()
            self._models = fresh
        return self._models

    def _writing(self, work: Any) -> Any:
        """Run a write; a database that turns out to be broken is replaced by what still verifies, and the write done
        again.
        """
        models = self._writable()
        try:
            return work(models)
        except Corrupt as error:
            log.error("store_broken", detail=error.message)
        self._models, note = heal(models, _unix_ms())
        log.warning("store_salvaged", detail=note)
        return work(self._models)


def known_snapshot(manifest: Manifest, digest: str, *, factory: bool = False, damaged: bool = False) -> Known:
    """What the core needs to know of a snapshot."""
    return Known(
        digest=digest,
        version=manifest.version,
        release=manifest.release,
        interface=manifest.interface,
        factory=factory,
        damaged=damaged,
    )


def _says_the_same(recorded: str, said: dict[str, Any]) -> bool:
    try:
        before = json.loads(recorded)
        return all(before[key] == said[key] for key in ("device", "engine_version", "proof"))
    except (ValueError, KeyError, TypeError):
        return False  # damaged: written anew


def read_pinned_root(path: Path) -> bytes:
    """The root that this device trusts. Raises Rejected with what to do."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Rejected(
            f"cannot read the pinned root {path}: {error.strerror}",
            next_step="Copy the publisher's 1.root.json there, or set trusted_root in agent.toml",
        ) from error
    if len(raw) > limits.METADATA_BYTES_MAX:
        raise Rejected(f"the pinned root {path} has {len(raw)} bytes", reason=Reason.TOO_LARGE)
    return raw


def utc_now() -> datetime:
    """Wall time, for expiry checks of new content only."""
    return datetime.now(UTC)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
