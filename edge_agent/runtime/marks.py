"""High-water marks: the highest versions of signed metadata and the last assignment that this device has seen, in
agent.db and in a mirrored file. What they forbid is `trust`'s and `assignments`' word.

Both copies are written before anything else is done with what was seen; at a boot the highest of both copies and of
the stored evidence counts. So neither a refused offer nor a restart nor the loss of one copy makes the old new again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

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
FILE_BYTES_MAX = 1024  # six numbers and two hashes


@dataclass(frozen=True, slots=True, order=True)
class AssignmentMark:
    """The last assignment that was taken; the digest of its bytes tells it from another one of the same revision."""

    epoch: int = 0
    revision: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that must not be older the next time."""

    tuf: TufVersions = field(default_factory=TufVersions)
    assignment: AssignmentMark = field(default_factory=AssignmentMark)

    def highest(self, other: Seen) -> Seen:
        """What to remember of two copies."""
        return Seen(self.tuf.highest(other.tuf), max(self.assignment, other.assignment))


class Marks:
    """`seen` is what offers and assignments are compared with."""

    def __init__(self, thread: StoreThread, store: AgentStore, state_dir: Path) -> None:
        self._thread = thread
        self._store = store
        self._path = state_dir / FILE_NAME
        self._saved = Seen()
        self.seen = Seen()

    async def load(self, in_evidence: TufVersions) -> None:
        """At a boot. A copy that is missing, damaged or behind is written again, if the disk lets us."""
        raw = await self._thread.call(read_small_file, self._path, FILE_BYTES_MAX, priority=Priority.SAFETY)
        mirrored = decode_marks(raw or b"")
        kept = decode_marks((await self._store.kept(KEY) or "").encode())
        self.seen = Seen(in_evidence)
        for copy in (mirrored, kept):
            self.seen = self.seen.highest(copy or Seen())
        if mirrored == kept == self.seen:
            self._saved = self.seen
            return
        try:
            await self._save(self.seen)
        except HoldfastError as error:
            log.warning("marks_not_saved", detail=error.message)

    async def remember(self, versions: TufVersions) -> None:
        """Metadata with these versions was verified. On return it is on the disk, twice.

        Raises Unavailable (disk_full, read_only, disk_hangs) or Corrupt: nothing may be taken from that metadata then.
        """
        self.seen = replace(self.seen, tuf=self.seen.tuf.highest(versions))
        await self._save(self.seen)

    async def remember_assignment(self, mark: AssignmentMark) -> None:
        """An assignment was verified and is not older than the last one. On return it is on the disk, twice.

        Raises Unavailable (disk_full, read_only, disk_hangs) or Corrupt; until a restart it is remembered all the same.
        """
        self.seen = replace(self.seen, assignment=max(self.seen.assignment, mark))
        await self._save(self.seen)

    async def _save(self, seen: Seen) -> None:
        if self._saved == seen:
            return
        raw = encode_marks(seen)
        await self._thread.call(write_small_file, self._path, raw, timeout_s=limits.PERSIST_PATIENT_S)
        await self._store.keep(KEY, raw.decode())
        self._saved = self._saved.highest(seen)


def encode_marks(seen: Seen) -> bytes:
    """Two lines: the marks as JSON, and the hash of that line, for a changed digit would be a valid number."""
    line = json.dumps({**asdict(seen.tuf), "assignment": asdict(seen.assignment)}, sort_keys=True)
    return f"{line}\n{hashlib.sha256(line.encode()).hexdigest()}\n".encode()


def decode_marks(raw: bytes) -> Seen | None:
    """The marks, None when these bytes are not what was written."""
    line, _, rest = raw.partition(b"\n")
    if rest.strip().decode("ascii", "replace") != hashlib.sha256(line).hexdigest():
        return None
    try:
        document: dict[str, Any] = json.loads(line)
        assignment = document.pop("assignment", {})  # an earlier version had none
        return Seen(TufVersions(**document), AssignmentMark(**assignment))
    except (ValueError, TypeError, AttributeError):
        return None
