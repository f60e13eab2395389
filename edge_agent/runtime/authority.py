"""Whom this device believes: the signed metadata that it keeps, and the coordinator that the publisher names in it.

How either is verified is `trust`'s; what the coordinator wants is `assignments`'.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from edge_agent.contract import limits
from edge_agent.contract.envelope import CoordinatorKey
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.evidence import EVIDENCE_BYTES_MAX, Evidence, MetadataFiles, encode_evidence
from edge_agent.contract.reasons import Reason
from edge_agent.runtime.marks import Marks
from edge_agent.runtime.publisher_word import PublisherWord
from edge_agent.store.small_file import read_small_file, write_small_file
from edge_agent.store.thread import Priority, StoreThread
from edge_agent.trust.coordinator import verify_coordinator
from edge_agent.trust.refresh import verify_refresh

log = structlog.get_logger()

FILE_NAME = "metadata"
FILE_BYTES_MAX = 2 * EVIDENCE_BYTES_MAX


class Kept(msgspec.Struct, frozen=True):
    """What the file holds; all of it is verified again when it is read.

    files: as far as the last refresh came. evidence, coordinator: what names the coordinator.
    """

    files: MetadataFiles = MetadataFiles()
    evidence: Evidence | None = None
    coordinator: bytes | None = None


class Authority:
    """`coordinator` is the key that counts now, None before the publisher has named one."""

    def __init__(
        self, thread: StoreThread, marks: Marks, state_dir: Path, pinned_root: bytes, publisher: PublisherWord
    ) -> None:
        self._thread = thread
        self._marks = marks
        self._publisher = publisher
        self._path = state_dir / FILE_NAME
        self._pinned_root = pinned_root
        self._kept = Kept()
        self.coordinator: CoordinatorKey | None = None

    async def load(self) -> None:
        """At a boot. What does not verify any more is forgotten: the network brings it again."""
        raw = await self._thread.call(read_small_file, self._path, FILE_BYTES_MAX, priority=Priority.SAFETY)
        try:
            kept = msgspec.msgpack.decode(raw, type=Kept) if raw else Kept()
        except (msgspec.MsgspecError, ValueError, RecursionError):
            log.warning("kept_metadata_damaged", next_step="Nothing to do: it is fetched again")
            return
        self._kept = kept
        if kept.evidence is not None and kept.coordinator is not None:
            self._name(kept.evidence, kept.coordinator)

    def files(self) -> bytes:
        """MetadataFiles as MessagePack: a beginning for whoever refreshes them."""
        return encode_evidence(self._kept.files)

    async def take(self, files: MetadataFiles, coordinator: bytes | None) -> None:
        """Keep the verified part of a refresh, and the coordinator that it names.

        coordinator: raw coordinator.json; without a right one the known one stands, if the metadata still names it.
        Raises Rejected (too_large, malformed, signature, metadata_rollback) after what verified was kept; Unavailable
        (disk_full, read_only, disk_hangs) or Corrupt when it could not be.
        """
        refreshed = verify_refresh(files, pinned_root=self._pinned_root, seen=self._marks.seen.tuf)
        await self._marks.remember(refreshed.marks)
        kept = Kept(refreshed.files, self._kept.evidence, self._kept.coordinator)
        evidence = refreshed.files.evidence()
        if evidence is not None:
            await self._publisher.heard(evidence)
            # Whoever brings a wrong coordinator.json takes the right one away from nobody.
            told = [raw for raw in (coordinator, self._kept.coordinator) if raw is not None]
            named = next((raw for raw in told if self._name(evidence, raw)), None)
            kept = Kept(refreshed.files, evidence, named)
            if named is None:
                self.coordinator = None
        if kept != self._kept:
            self._kept = kept
            await self._thread.call(
                write_small_file, self._path, msgspec.msgpack.encode(kept), timeout_s=limits.PERSIST_PATIENT_S
            )
        if refreshed.refusal is not None:
            raise refreshed.refusal

    def require(self) -> CoordinatorKey:
        """The coordinator that counts. Raises Unavailable before the publisher has named one."""
        if self.coordinator is None:
            raise Unavailable(
                "the publisher has named no coordinator that this device knows of",
                reason=None,
                next_step="Run `fleet coordinator authorize`, publish, and let the device refresh its metadata",
            )
        return self.coordinator

    def _name(self, evidence: Evidence, raw: bytes) -> bool:
        try:
            key = verify_coordinator(evidence, raw, self._pinned_root)
            if key.epoch < self._marks.seen.assignment.epoch:
                raise Rejected(
                    f"the coordinator of epoch {key.epoch} gave way to {self._marks.seen.assignment.epoch}",
                    reason=Reason.STALE_ASSIGNMENT,
                )
        except HoldfastError as error:
            log.warning("coordinator_not_believed", detail=error.message)
            return False
        if key != self.coordinator:
            log.info("coordinator_named", epoch=key.epoch, public_key=key.public_key)
        self.coordinator = key
        return True
