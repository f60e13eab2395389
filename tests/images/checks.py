"""What a device finds on an image of its disk after a power cut, and whether that keeps what was promised before it."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.contract.errors import Corrupt
from edge_agent.contract.manifest import parse_manifest
from edge_agent.runtime import authority, marks
from edge_agent.runtime.marks import Seen, decode_marks
from edge_agent.runtime.saved_state import decode_state
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.models_db import ModelsDb
from edge_agent.store.opening import open_store
from tests.images.disk import Image, Word
from tests.images.update import MODEL

NOW_MS = 1_900_000_000_000
REPORTS_MAX = 1_000


@dataclass(frozen=True)
class Found:
    """What the real opening code makes of an image. snapshots: digest -> whether every byte hashes right."""

    notes: tuple[str, ...]
    integrity: tuple[str, ...]
    document: str | None
    boot: int
    reports: tuple[tuple[int, bytes], ...]
    facts: int
    marks: tuple[Seen, ...]
    metadata: bytes | None
    snapshots: dict[str, bool]


def look(image: Image, folder: Path) -> Found:
    """Write this image into the folder, boot the store from it, and read everything."""
    folder.mkdir()
    for name, content in image.items():
        (folder / name).write_bytes(content)
    opened = open_store(folder, NOW_MS)
    models, agent = opened.models, opened.agent
    assert models is not None and agent is not None, opened.notes
    try:
        return Found(
            opened.notes,
            (*_integrity(models), *_integrity(agent)),
            agent.states().get(MODEL, b"").decode() or None,
            int(agent.meta("boot") or 0),
            agent.outbox(oldest=REPORTS_MAX),
            len(agent.journal(model=MODEL, newest=REPORTS_MAX)),
            tuple(decode_marks(raw) or Seen() for raw in (_read(folder / marks.FILE_NAME) or b"", _kept_marks(agent))),
            _read(folder / authority.FILE_NAME),
            {snapshot.digest: _is_whole(models, snapshot.manifest_raw) for snapshot in models.snapshots()},
        )
    finally:
        models.close()
        agent.close()


def _integrity(database: ModelsDb | AgentDb) -> tuple[str, ...]:
    try:
        return tuple(str(line) for (line,) in database._db.execute("PRAGMA integrity_check").fetchall())
    except sqlite3.Error as error:
        return (str(error),)


def _kept_marks(agent: AgentDb) -> bytes:
    return (agent.meta(marks.KEY) or "").encode()


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _is_whole(models: ModelsDb, manifest_raw: bytes) -> bool:
    try:
        for sha256 in parse_manifest(manifest_raw).chunk_hashes():
            models.read_chunk(sha256)
    except Corrupt:
        return False
    return True


@dataclass
class Promises:
    """What the product has said to be on the disk up to a place among its calls, and what it was about to do.

    reports, metadata: what was there at the end; what an image has of them has to be the same.
    """

    reports: tuple[tuple[int, bytes], ...]
    metadata: frozenset[bytes]
    commits: list[tuple[str | None, int]] = field(default_factory=lambda: [(None, 0)])  # document, facts until then
    committed: int = 0
    boots: int = 0
    boots_begun: int = 0
    marks: Seen = field(default_factory=Seen)
    metadata_kept: int = 0
    admitted: set[str] = field(default_factory=set)
    may_be_admitted: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)

    def hear(self, word: Word) -> None:
        done, what = word.stage == "done", word.what
        match word.kind:
            case "state" if done:
                self.committed = len(self.commits) - 1
            case "state":
                self.commits.append((what["document"], self.commits[-1][1] + int(what["facts"])))
            case "boot" if done:
                self.boots += 1
            case "boot":
                self.boots_begun += 1
            case "marks" if done:
                self.marks = self.marks.highest(decode_marks(what["document"].encode()) or Seen())
            case "metadata":
                self.metadata_kept += done
            case "admit":
                (self.admitted if done else self.may_be_admitted).add(what["digest"])
            case "remove" if not done:
                self.admitted.discard(what["digest"])
            case "damage":
                (self.damaged.discard if done else self.damaged.add)(what["digest"])

    def broken_by(self, found: Found) -> list[str]:
        """What this image breaks, in words."""
        return [words for words, kept in self._kept(found).items() if not kept]

    def _kept(self, found: Found) -> dict[str, bool]:
        count = len(found.reports)
        quarantined = _quarantined(self.commits[self.committed][0])
        visible = set(found.snapshots)
        return {
            "the store opens as it is, nothing to salvage": found.notes == (),
            "both databases are sound": found.integrity == ("ok", "ok"),
            "the state is the last one committed, or the one being committed, with exactly its facts": (
                (found.document, count) in self.commits[self.committed :]
            ),
            "journal and outbox tell the same": found.facts == count,
            "reports have their numbers, no hole and no repeat": found.reports == self.reports[:count],
            "boots are counted": self.boots <= found.boot <= self.boots_begun,
            "quarantine is not forgotten": quarantined <= _quarantined(found.document),
            "no copy of the marks is lower": all(copy == copy.highest(self.marks) for copy in found.marks),
            "metadata is as it was kept, whole": (
                found.metadata in self.metadata or (found.metadata is None and not self.metadata_kept)
            ),
            "an admitted snapshot is there": self.admitted <= visible,
            "nothing is visible that was not being admitted": visible <= self.may_be_admitted,
            "what is visible is whole": all(
                whole for digest, whole in found.snapshots.items() if digest not in self.damaged
            ),
        }


def _quarantined(document: str | None) -> set[str]:
    state = decode_state(document.encode()) if document else None
    return {record.digest for record in state.quarantine} if state else set()


def key_of(image: Image) -> bytes:
    """The same for the same image."""
    whole = hashlib.blake2b(digest_size=16)
    for name, content in sorted(image.items()):
        whole.update(f"{name} {len(content)} ".encode())
        whole.update(content)
    return whole.digest()


SQLITE = sqlite3.sqlite_version
