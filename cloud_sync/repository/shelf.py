"""Parts of files for devices: metadata, the coordinator's key, manifests and chunks, verified before they go out.

Who may have what is decided in `coordinator`. Nothing here is believed for being in the folder: a manifest or chunk is
hashed whole, and a damaged one is not handed out.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from cloud_sync import limits
from cloud_sync.publish.coordinator import read_coordinator
from cloud_sync.publish.repository import Repository
from cloud_sync.repository.catalog import Catalog
from edge_agent.contract import limits as contract_limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Corrupt, HoldfastError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.transfer import Get, Kind, Status

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Part:
    """An answer. total_bytes: of the whole thing, with status 200. damaged: what is stored is."""

    status: Status
    content: bytes = b""
    total_bytes: int = 0
    damaged: bool = False


class Shelf:
    """Reads from one repository; safe in several threads. What was verified lately is kept in bounded memory."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._chunks_of: OrderedDict[str, frozenset[str]] = OrderedDict()

    def part(self, get: Get, catalog: Catalog) -> Part:
        """The part that was asked for, by somebody who may have it."""
        whole = self._whole(get, catalog)
        if isinstance(whole, Part):
            return whole
        if get.offset >= len(whole) and not (get.offset == 0 and not whole):
            return Part(Status.BEYOND)
        return Part(Status.OK, whole[get.offset : get.offset + get.length], len(whole))

    def names_chunk(self, digest: str, sha256: str, catalog: Catalog) -> bool:
        """Whether the snapshot with this digest consists of this chunk, among others."""
        return sha256 in self._chunks(digest, catalog)

    def _whole(self, get: Get, catalog: Catalog) -> bytes | Part:
        try:
            if get.kind is Kind.METADATA:
                raw = self._repository.read_metadata(get.name)
                return Part(Status.NOT_THERE) if raw is None else raw
            if get.kind is Kind.COORDINATOR:
                raw = read_coordinator(self._repository, catalog.published) if catalog.published else None
                return Part(Status.NOT_THERE) if raw is None else raw
            if get.kind is Kind.MANIFEST:
                return self._manifest(get.name, catalog)
            return self._chunk(get.name)
        except HoldfastError as error:
            log.error("not_readable", kind=get.kind.value, name=get.name, error=str(error))
            return Part(Status.TRY_LATER, damaged=isinstance(error, Corrupt))

    def _manifest(self, digest: str, catalog: Catalog) -> bytes | Part:
        entry = catalog.entries.get(digest)
        if entry is None:
            return Part(Status.NOT_THERE)
        kept = self._remembered(digest)
        if kept is None:
            kept = self._repository.read_target(entry.path, length=entry.length, sha256=digest)
            self._remember(digest, kept)
        return kept

    def _chunk(self, sha256: str) -> bytes | Part:
        kept = self._remembered(sha256)
        if kept is not None:
            return kept
        path = self._repository.folder / "chunks" / sha256
        for _ in range(2):  # a second look: it may just have been replaced by a good one
            try:
                with path.open("rb") as stream:
                    raw = stream.read(contract_limits.CHUNK_BYTES + 1)
            except FileNotFoundError:
                return Part(Status.NOT_THERE)
            except OSError as error:
                log.error("chunk_unreadable", chunk=sha256, error=str(error))
                return Part(Status.TRY_LATER)
            if sha256_hex(raw) == sha256:
                self._remember(sha256, raw)
                return raw
        log.error("chunk_damaged", chunk=sha256, next_step="Upload it again: fleet snapshot publish --all")
        with contextlib.suppress(OSError):
            path.unlink()  # so that the next upload is told that it is missing
        return Part(Status.TRY_LATER)

    def _chunks(self, digest: str, catalog: Catalog) -> frozenset[str]:
        with self._lock:
            if digest in self._chunks_of:
                self._chunks_of.move_to_end(digest)
                return self._chunks_of[digest]
        try:
            raw = self._manifest(digest, catalog)
        except HoldfastError:
            return frozenset()
        if isinstance(raw, Part):
            return frozenset()
        chunks = frozenset(parse_manifest(raw).chunk_hashes())
        with self._lock:
            self._chunks_of[digest] = chunks
            while len(self._chunks_of) > limits.MANIFESTS_KEPT_MAX:
                self._chunks_of.popitem(last=False)
        return chunks

    def _remembered(self, name: str) -> bytes | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def _remember(self, name: str, raw: bytes) -> None:
        with self._lock:
            self._kept_bytes += len(raw) - len(self._kept.pop(name, b""))
            self._kept[name] = raw
            while self._kept_bytes > limits.CHUNKS_KEPT_BYTES_MAX:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
