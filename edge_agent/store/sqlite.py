"""Opening SQLite files with our settings, and its errors in our words.

What the tables mean is in `models_db` and `agent_db`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlite_utils

from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason

PAGE_BYTES = 4 * 1024  # each commit of a chunk writes some pages twice: 5 % more bytes than the file, with 32 KiB 28 %
CACHE_KIB = 2 * 1024  # holds a chunk's pages until its commit: written earlier, they make six syncs of four
BUSY_MS = 5_000

_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_WRITE_FAILED = {  # open files of a file system that has turned read-only, or of a disk that fails
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_DELETE,
}


def connect(path: Path, *, journal: str, immutable: bool = False) -> sqlite_utils.Database:
    """Open (and make) a database; immutable: read only, without any lock or journal, also from a read-only disk.

    journal: "DELETE" or "WAL". Raises Corrupt, or Unavailable (disk_full, read_only).
    """
    with translated(path.name):
        suffix = "?mode=ro&immutable=1" if immutable else "?mode=rwc"
        connection = sqlite3.connect(
            path.absolute().as_uri() + suffix, uri=True, check_same_thread=False, timeout=BUSY_MS / 1000
        )
        try:
            database = sqlite_utils.Database(connection, execute_plugins=False)
            if not immutable:
                database.execute(f"PRAGMA page_size={PAGE_BYTES}")
                database.execute("PRAGMA auto_vacuum=INCREMENTAL")
                database.execute(f"PRAGMA journal_mode={journal}")
                database.execute("PRAGMA synchronous=FULL")
            database.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            database.execute("PRAGMA mmap_size=0")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
    return database


def forget_cached_pages(database: sqlite_utils.Database) -> None:
    """Drop SQLite's page cache: what is verified next is read from the file, not from an earlier read."""
    database.execute("PRAGMA shrink_memory").fetchall()


def sync_folder(folder: Path) -> None:
    """Names that were made, changed or removed in this folder are so after a power cut too. Raises OSError.

    Of a rollback journal SQLite syncs the making, and at synchronous=FULL not the removal, which is the commit: until
    something syncs the folder the journal may come back, and take the last transaction back.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """SQLite's errors in our words, by who has to act."""
    try:
        yield
    except HoldfastError:
        raise
    except (sqlite3.Error, OSError, OverflowError, UnicodeDecodeError) as error:
        raise _in_our_words(what, error) from error


def _in_our_words(what: str, error: Exception) -> HoldfastError:
    code = getattr(error, "sqlite_errorcode", None)
    if code in _FULL or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(f"{what}: no room to write ({error})", reason=Reason.DISK_FULL)
    if code in _WRITE_FAILED or isinstance(error, OSError):
        return Unavailable(f"{what} cannot be written ({error})", reason=Reason.READ_ONLY)
    if code is not None and (code & 0xFF) in {c & 0xFF for c in _READ_ONLY}:
        return Unavailable(f"{what} cannot be written ({error})", reason=Reason.READ_ONLY)
    if code is not None and (code & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"{what} is in use by another process ({error})", next_step="Try again")
    if code is not None and (code & 0xFF) == sqlite3.SQLITE_TOOBIG:
        return Rejected(f"{what}: {error}", reason=Reason.TOO_LARGE)
    return Corrupt(f"{what} is damaged ({error})", reason=Reason.DAMAGE)


def upsert(database: sqlite_utils.Database, table: str, values: Mapping[str, Any], *, key: str) -> None:
    """Insert this row, or change the one with the same key (columns, with commas between them).

    Not sqlite_utils' own upsert: that finds out by a write whether SQLite can do this, takes a disk that cannot be
    written for a no, and from then on loses new rows without a word.
    """
    columns = ", ".join(f'"{name}"' for name in values)
    changes = ", ".join(f'"{name}"=excluded."{name}"' for name in values)
    database.execute(
        f'INSERT INTO "{table}"({columns}) VALUES({", ".join("?" * len(values))}) ON CONFLICT({key}) DO UPDATE'
        f" SET {changes}",
        list(values.values()),
    )


def row(database: sqlite_utils.Database, statement: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row of a query."""
    found: tuple[Any, ...] | None = database.execute(statement, list(parameters)).fetchone()
    return found


def rows(database: sqlite_utils.Database, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a query; callers bound them."""
    return list(database.execute(statement, list(parameters)).fetchall())


def file_facts(database: sqlite_utils.Database) -> dict[str, Any]:
    """What a support engineer asks of a database file first."""
    names = ("user_version", "page_size", "page_count", "freelist_count", "journal_mode", "auto_vacuum")
    facts: dict[str, Any] = {name: (row(database, f"PRAGMA {name}") or (None,))[0] for name in names}
    return {**facts, "check": [str(line) for (line,) in rows(database, "PRAGMA quick_check(20)")]}
