"""Taking in an offered snapshot: verify its metadata before anything else, then only the chunks that it names.

Whoever offers (an import, later the sync process) holds nothing that may not be lost: it may die, hang or lie at any
step.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from edge_agent.config import Config
from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.evidence import EVIDENCE_BYTES_MAX, decode_evidence
from edge_agent.contract.reasons import Blame, Reason
from edge_agent.core import events as ev
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.library import Library, known_snapshot, utc_now
from edge_agent.runtime.marks import Marks
from edge_agent.runtime.publisher_word import PublisherWord
from edge_agent.runtime.tasks import Tasks
from edge_agent.trust.chain import verify_admitted, verify_metadata, verify_offer
from edge_agent.trust.verified import DeviceProfile, VerifiedManifest

log = structlog.get_logger()

DOCUMENT_BYTES_MAX = {"evidence": EVIDENCE_BYTES_MAX, "manifest": limits.MANIFEST_BYTES_MAX}


@dataclass
class Offer:
    """What one connection has offered so far."""

    documents: dict[str, bytearray] = field(default_factory=lambda: {name: bytearray() for name in DOCUMENT_BYTES_MAX})
    verified: VerifiedManifest | None = None
    wanted: set[str] = field(default_factory=set)


class OfferDesk:
    """Where offers are made; several at a time, each on its own connection."""

    def __init__(
        self,
        config: Config,
        library: Library,
        marks: Marks,
        executor: Executor,
        publisher: PublisherWord,
        pinned_root: bytes,
        tasks: Tasks,
    ) -> None:
        self._publisher = publisher
        self._library = library
        self._marks = marks
        self._executor = executor
        self._pinned_root = pinned_root
        self._tasks = tasks
        self._device = DeviceProfile(
            device_type=config.device_type, engines=tuple(config.engines), models=frozenset(config.models)
        )
        self._open: dict[str, Offer] = {}
        self._refusals: Counter[tuple[str, int]] = Counter()  # by model and generation, since something was taken

    def add_piece(self, offer: Offer, name: str, piece: bytes) -> None:
        """A piece of the evidence or of the manifest. Raises Rejected when it grows past its bound."""
        document = offer.documents.get(name)
        if document is None:
            raise Rejected(f"an offer has no document {name!r}", reason=Reason.MALFORMED)
        if len(document) + len(piece) > DOCUMENT_BYTES_MAX[name]:
            raise Rejected(f"{name} has more than {DOCUMENT_BYTES_MAX[name]} bytes", reason=Reason.TOO_LARGE)
        document += piece

    async def begin(self, offer: Offer, *, retry: bool, claimed_model: str, claimed_version: str) -> tuple[str, ...]:
        """Verify, then say which chunks are wanted. Raises Rejected or Unavailable; nothing is stored then."""
        manifest_raw = bytes(offer.documents["manifest"])
        try:
            verified = await self._verify(manifest_raw, bytes(offer.documents["evidence"]))
        except Rejected as refusal:
            await self._remember_refusal(refusal, manifest_raw, claimed_model, claimed_version)
            raise
        try:
            await self._ask(verified, complete=False, retry=retry, dry=True)
        except Rejected as refusal:
            if refusal.reason is Reason.INTERFACE_CHANGE:
                await self._remember_refusal(refusal, manifest_raw, claimed_model, claimed_version)
            raise
        with self._storage_noted():
            wanted = await self._library.begin_offer(verified)
        offer.verified, offer.wanted = verified, set(wanted)
        if not wanted:
            await self._library.admit(verified.digest)
        await self._ask(verified, complete=not wanted, retry=retry, dry=False)
        self._open[verified.digest] = offer
        log.info("offer_begun", model=verified.manifest.name, snapshot=verified.digest,
                 version=verified.manifest.version, wanted_chunks=len(wanted))  # fmt: skip
        return wanted

    async def _verify(self, manifest_raw: bytes, evidence_raw: bytes) -> VerifiedManifest:
        """New content needs fresh metadata; a snapshot that was admitted here is repaired with any that was right."""
        evidence = decode_evidence(evidence_raw)
        admitted = self._library.is_admitted(hashlib.sha256(manifest_raw).hexdigest())
        seen = self._marks.seen.tuf
        try:
            versions = verify_metadata(evidence, pinned_root=self._pinned_root, seen=seen)
        except Rejected as refusal:
            if admitted and refusal.reason is Reason.METADATA_ROLLBACK:
                return verify_admitted(evidence, manifest_raw, self._pinned_root)
            raise
        with self._storage_noted():
            await self._marks.remember(versions)
        await self._publisher.heard(evidence)
        if admitted:
            return verify_admitted(evidence, manifest_raw, self._pinned_root)
        return verify_offer(
            evidence,
            manifest_raw,
            pinned_root=self._pinned_root,
            now=utc_now(),
            seen=seen,
            device=self._device,
        )

    @contextlib.contextmanager
    def _storage_noted(self) -> Iterator[None]:
        """A disk that cannot be written is shown in `status`, whoever finds it out."""
        try:
            yield
        except Unavailable as error:
            if error.reason in (Reason.DISK_FULL, Reason.READ_ONLY):
                self._executor.note_storage(error.reason)
            raise

    async def _ask(self, verified: VerifiedManifest, *, complete: bool, retry: bool, dry: bool) -> None:
        """Put the offer to the core; a dry question finds out a refusal before anything is stored."""
        manifest = verified.manifest
        event = ev.OfferBegun(manifest.name, known_snapshot(manifest, verified.digest), complete, retry)
        refusal = self._executor.would_refuse(event) if dry else (await self._executor.post(event)).refusal
        if refusal is not None:
            kind = Unavailable if refusal.reason.blame is Blame.DECLINED else Rejected
            raise kind(refusal.text, reason=refusal.reason)

    async def _remember_refusal(self, refusal: Rejected, manifest_raw: bytes, model: str, version: str) -> None:
        """So that `status` shows it: digest and version are the offerer's words and are never relied on."""
        if model in self._device.models:
            words = "".join(c for c in version if c.isalnum() or c in ".+_-")[: limits.VERSION_CHARS_MAX] or "unknown"
            await self.note_refusal(model, hashlib.sha256(manifest_raw).hexdigest(), words, refusal)

    async def note_refusal(self, model: str, digest: str, version: str, refusal: Rejected) -> None:
        """Tell why this snapshot was not taken. The same again is not told again.

        Each is a line in the journal and a report: whoever lies without an end must not push out the facts there.
        """
        state = self._executor.state(model)
        told = {(refused.digest, refused.reason, refused.detail) for refused in state.refused_offers}
        detail = refusal.message[: limits.DETAIL_CHARS_MAX]
        if refusal.reason is None or (digest, refusal.reason, detail) in told:
            return
        key = (model, state.generation)
        if key not in self._refusals:  # an operator's new intent is a new story
            self._forgive(model)
        self._refusals[key] += 1
        if self._refusals[key] <= limits.REFUSALS_TOLD_MAX:
            await self._executor.post(ev.OfferRefused(model, digest, version, refusal.reason, detail))

    def _forgive(self, model: str) -> None:
        for key in [key for key in self._refusals if key[0] == model]:
            del self._refusals[key]

    async def put_chunk(self, offer: Offer, sha256: str, data: bytes) -> None:
        """One chunk that is wanted. Raises Rejected (chunk_mismatch), Unavailable (disk_full, read_only)."""
        if offer.verified is None or sha256 not in offer.wanted:
            raise Rejected(f"chunk {sha256[:12]} is not wanted", reason=Reason.CHUNK_MISMATCH)
        with self._storage_noted():
            await self._library.put_chunk(sha256, data)
        offer.wanted.discard(sha256)

    async def end(self, offer: Offer) -> VerifiedManifest:
        """All chunks have been sent: make the snapshot visible, or say what is missing.

        Raises Rejected (truncated), Unavailable (disk_full, read_only).
        """
        verified = offer.verified
        if verified is None:
            raise Rejected("no offer was begun", reason=Reason.OUT_OF_ORDER)
        missing = await self._library.missing(verified.digest)
        if missing:
            raise Rejected(f"{len(missing)} chunks are still missing", reason=Reason.TRUNCATED)
        manifest = verified.manifest
        state = self._executor.state(manifest.name)
        known = state.find(verified.digest)
        with self._storage_noted():
            await self._library.admit(verified.digest)
        if state.candidate and state.candidate.digest == verified.digest:
            step = await self._executor.post(ev.OfferCompleted(manifest.name, verified.digest))
            if step.refusal is not None and step.refusal.reason.blame is Blame.DECLINED:
                raise Unavailable(step.refusal.text, reason=step.refusal.reason)
        elif known and known.damaged:
            await self._executor.post(ev.Repaired(manifest.name, verified.digest))
        self._open.pop(verified.digest, None)
        self._forgive(manifest.name)
        return verified

    def gone(self, offer: Offer) -> None:
        """The connection ended. An unfinished offer is kept for a while, for whoever offers it again."""
        verified = offer.verified
        if verified is not None and self._open.get(verified.digest) is offer:
            self._tasks.spawn(self._abandon_later(offer, verified), name="abandon-offer")

    async def _abandon_later(self, offer: Offer, verified: VerifiedManifest) -> None:
        await asyncio.sleep(limits.OFFER_KEPT_S)
        if self._open.get(verified.digest) is offer:
            del self._open[verified.digest]
            await self.abandon(verified.manifest.name, verified.digest)

    async def abandon(self, model: str, digest: str) -> None:
        """Nobody came back: the core forgets the candidate (which also drops the offer)."""
        await self._executor.post(ev.OfferAbandoned(model, digest, Reason.OFFER_ABANDONED))

    async def drop(self, digest: str) -> None:
        """Forget a half-received snapshot in the store, and collect what only it needed."""
        with contextlib.suppress(HoldfastError):
            await self._library.drop_offer(digest)
            await self._library.collect_garbage()

    def describe(self) -> list[dict[str, Any]]:
        """Open offers and how much each still wants."""
        return [{"digest": digest, "wanted_chunks": len(offer.wanted)} for digest, offer in self._open.items()]
