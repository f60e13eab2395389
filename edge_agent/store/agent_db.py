"""agent.db: lifecycle state, journal, outbox and a few single values. What a transition means is `core`'s.

Invariant: a transition, its journal lines and the reports that it causes are one transaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.contract import limits
from edge_agent.store.sqlite import connect, file_facts, row, rows, translated, upsert

SCHEMA_VERSION = 1
ACKNOWLEDGED = "acknowledged"
ACKNOWLEDGED_BY = "acknowledged_by"
MIGRATIONS: dict[int, str] = {
    1: """
        CREATE TABLE IF NOT EXISTS state(model TEXT PRIMARY KEY, document BLOB NOT NULL);
        CREATE TABLE IF NOT EXISTS journal(
            number INTEGER PRIMARY KEY AUTOINCREMENT, at_unix_ms INTEGER NOT NULL,
            model TEXT NOT NULL, entry TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS outbox(
            number INTEGER PRIMARY KEY AUTOINCREMENT, telemetry INTEGER NOT NULL, body BLOB NOT NULL);
        CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
        PRAGMA user_version=1;
    """,
}


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of the device's story."""

    number: int
    at_unix_ms: int
    model: str
    entry: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """The line as `edge-agent history --json` shows it."""
        return {"number": self.number, "at_unix_ms": self.at_unix_ms, "model": self.model, **self.entry}


class AgentDb:
    """One agent.db; not for several threads at once."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """read_only: nothing is to be committed here. Raises Corrupt, or Unavailable (disk_full, read_only)."""
        self.path = path
        self.read_only = read_only
        self._db = connect(path, journal="WAL")
        with translated(path.name):
            if not read_only:
                (version,) = row(self._db, "PRAGMA user_version") or (0,)
                for step in range(int(version) + 1, SCHEMA_VERSION + 1):
                    self._db.executescript(MIGRATIONS[step])
            for table in ("state", "meta", "journal", "outbox"):
                self._db.execute(f"SELECT * FROM {table}").fetchall()

    def close(self) -> None:
        """Close the database (and fold its WAL in)."""
        self._db.conn.close()

    def facts(self) -> dict[str, Any]:
        """About the file, for people. Raises Corrupt."""
        with translated(self.path.name):
            return file_facts(self._db)

    def commit_transition(
        self,
        model: str,
        document: bytes,
        entries: tuple[dict[str, Any], ...],
        reports: tuple[bytes, ...],
        at_unix_ms: int,
    ) -> None:
        """State, journal lines and reports in one transaction; journal and outbox stay within their bounds."""
        with translated(self.path.name), self._db.atomic():
            upsert(self._db, "state", {"model": model, "document": document}, key="model")
            # Changes with every commit: SQLite leaves out a write that changes nothing, and its failure with it.
            upsert(self._db, "meta", {"key": "saved_unix_ms", "value": str(at_unix_ms)}, key="key")
            for entry in entries:
                self._db.table("journal").insert(
                    {"at_unix_ms": at_unix_ms, "model": model, "entry": json.dumps(entry, ensure_ascii=False)}
                )
            for body in reports:
                self._db.table("outbox").insert({"telemetry": 0, "body": body})
            self._trim()

    def states(self) -> dict[str, bytes]:
        """The saved document of every model; a row that is not what was written is passed over."""
        with translated(self.path.name):
            found = rows(self._db, "SELECT model, document FROM state")
        return {str(model): document for model, document in found if isinstance(document, bytes)}

    def journal(self, *, model: str | None, newest: int) -> tuple[JournalEntry, ...]:
        """The newest lines (of one model), oldest first; a line that is not what was written is passed over."""
        with translated(self.path.name):
            found = rows(
                self._db,
                "SELECT number, at_unix_ms, model, entry FROM journal WHERE ?1 IS NULL OR model=?1"
                " ORDER BY number DESC LIMIT ?2",
                (model, newest),
            )
        lines = (_line(*values) for values in reversed(found))
        return tuple(line for line in lines if line is not None)

    def next_boot(self) -> int:
        """The number of this boot: one more than the last, persisted before it is used."""
        with translated(self.path.name), self._db.atomic():
            number = int(self.meta("boot") or 0) + 1
            self.set_meta({"boot": str(number)})
        return number

    def meta(self, key: str) -> str | None:
        """A small value."""
        with translated(self.path.name):
            found = row(self._db, "SELECT value FROM meta WHERE key=?", (key,))
        return str(found[0]) if found else None

    def set_meta(self, values: dict[str, str]) -> None:
        """Set small values, in one transaction."""
        with translated(self.path.name), self._db.atomic():
            for key, value in values.items():
                upsert(self._db, "meta", {"key": key, "value": value}, key="key")

    def add_telemetry(self, body: bytes) -> None:
        """A report that no transition causes: the first to go when the outbox is full."""
        with translated(self.path.name), self._db.atomic():
            self._db.table("outbox").insert({"telemetry": 1, "body": body})
            self._trim()

    def acknowledged(self) -> int:
        """The number up to which somebody else has said to have committed the reports; 0 = none."""
        said = self.meta(ACKNOWLEDGED) or ""
        return int(said) if said.isdecimal() else 0  # damaged: the reports are sent again, and told from earlier ones

    def outbox_count(self) -> int:
        """Reports that nobody has acknowledged yet."""
        with translated(self.path.name):
            found = row(self._db, "SELECT count(*) FROM outbox WHERE number > ?", (self.acknowledged(),))
        return int(found[0]) if found else 0

    def outbox(self, *, oldest: int) -> tuple[tuple[int, bytes], ...]:
        """(number, body) of the oldest reports that nobody has acknowledged yet."""
        with translated(self.path.name):
            found = rows(
                self._db,
                "SELECT number, body FROM outbox WHERE number > ? ORDER BY number LIMIT ?",
                (self.acknowledged(), oldest),
            )
        return tuple((int(number), body) for number, body in found if isinstance(body, bytes))

    def newest_report(self) -> int:
        """The highest number that any report has had in this incarnation; 0 = none."""
        with translated(self.path.name):
            found = row(self._db, "SELECT seq FROM sqlite_sequence WHERE name='outbox'")
        return int(found[0]) if found else 0

    def acknowledge(self, up_to_number: int) -> None:
        """Reports up to this number are committed elsewhere. They stay, while there is room: a coordinator that was
        restored from a backup says a lower number, and is sent them again.
        """
        self.set_meta({ACKNOWLEDGED: str(up_to_number)})

    def acknowledged_by(self, coordinator: str) -> None:
        """Acknowledgements are this coordinator's from now on (its key, hexadecimal digits): what an earlier one has
        committed, it does not have.
        """
        if self.meta(ACKNOWLEDGED_BY) != coordinator:
            self.set_meta({ACKNOWLEDGED_BY: coordinator, ACKNOWLEDGED: "0"})

    def begin_incarnation(self, name: str) -> None:
        """Number the reports that nobody has acknowledged anew, from 1 on, under another name."""
        with translated(self.path.name), self._db.atomic():
            kept = rows(
                self._db,
                "SELECT telemetry, body FROM outbox WHERE number > ? ORDER BY number",
                (self.acknowledged(),),
            )
            self._db.execute("DELETE FROM outbox")
            self._db.execute("DELETE FROM sqlite_sequence WHERE name='outbox'")
            for telemetry, body in kept:
                self._db.table("outbox").insert({"telemetry": telemetry, "body": body})
            self.set_meta({"incarnation": name, ACKNOWLEDGED: "0"})

    def _trim(self) -> None:
        """Oldest journal lines go first; of the outbox, what is acknowledged, then telemetry, then lifecycle facts."""
        self._db.execute(
            "DELETE FROM journal WHERE number <= (SELECT max(number) FROM journal) - ?", [limits.JOURNAL_ENTRIES_MAX]
        )
        (count,) = row(self._db, "SELECT count(*) FROM outbox") or (0,)
        surplus = int(count) - limits.OUTBOX_REPORTS_MAX
        if surplus > 0:
            self._db.execute(
                "DELETE FROM outbox WHERE number IN"
                " (SELECT number FROM outbox ORDER BY number > ?, telemetry DESC, number LIMIT ?)",
                [self.acknowledged(), surplus],
            )


def _line(number: Any, at_unix_ms: Any, model: Any, entry: Any) -> JournalEntry | None:
    try:
        document = json.loads(entry)
        return JournalEntry(int(number), int(at_unix_ms), str(model), document) if isinstance(document, dict) else None
    except (ValueError, TypeError, RecursionError):
        return None
