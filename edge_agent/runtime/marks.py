"""High-water marks: the highest versions of signed metadata that this device has seen, in agent.db and in a mirrored
file. What they forbid is `trust`'s word.

Both copies are written before anything else is done with the metadata; at a boot the highest of both copies and of
the stored evidence counts. So neither a refused offer nor a restart nor the loss of one copy makes the old new again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError
from edge_agent.runtime.persistence import AgentStore
from edge_agent.store.small_file import read_small_file, write_small_file
from edge_agent.store.thread import Priority, StoreThread
from edge_agent.trust.verified import TufVersions

log = structlog.get_logger()

FILE_NAME = "marks"
KEY = "tuf_versions"
FILE_BYTES_MAX = 1024  # four numbers and a hash


class Marks:
    """`seen` is what offers are compared with."""

    def __init__(self, thread: StoreThread, store: AgentStore, state_dir: Path) -> None:
        self._thread = thread
        self._store = store
        self._path = state_dir / FILE_NAME
        self._saved = TufVersions()
        self.seen = TufVersions()

    async def load(self, in_evidence: TufVersions) -> None:
        """At a boot. A copy that is missing, damaged or behind is written again, if the disk lets us."""
        raw = await self._thread.call(read_small_file, self._path, FILE_BYTES_MAX, priority=Priority.SAFETY)
        mirrored = decode_marks(raw or b"")
        kept = decode_marks((await self._store.kept(KEY) or "").encode())
        self.seen = in_evidence
        for copy in (mirrored, kept):
            self.seen = self.seen.highest(copy or TufVersions())
        if mirrored == kept == self.seen:
            self._saved = self.seen
            return
        try:
            await self.remember(self.seen)
        except HoldfastError as error:
            log.warning("marks_not_saved", detail=error.message)

    async def remember(self, versions: TufVersions) -> None:
        """Metadata with these versions was verified. On return it is on the disk, twice.

        Raises Unavailable (disk_full, read_only, disk_hangs) or Corrupt: nothing may be taken from that metadata then.
        """
        self.seen = seen = self.seen.highest(versions)
        if self._saved == seen:
            return
        raw = encode_marks(seen)
        await self._thread.call(write_small_file, self._path, raw, timeout_s=limits.PERSIST_PATIENT_S)
        await self._store.keep(KEY, raw.decode())
        self._saved = self._saved.highest(seen)


def encode_marks(versions: TufVersions) -> bytes:
    """Two lines: the versions as JSON, and the hash of that line, for a changed digit would be a valid number."""
    line = json.dumps(asdict(versions), sort_keys=True)
    return f"{line}\n{hashlib.sha256(line.encode()).hexdigest()}\n".encode()


def decode_marks(raw: bytes) -> TufVersions | None:
    """The versions, None when these bytes are not what was written."""
    line, _, rest = raw.partition(b"\n")
    if rest.strip().decode("ascii", "replace") != hashlib.sha256(line).hexdigest():
        return None
    try:
        return TufVersions(**json.loads(line))
    except (ValueError, TypeError):
        return None
