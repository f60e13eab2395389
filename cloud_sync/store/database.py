"""The database and the one thread that uses it: work comes in a bounded queue and is committed together.

Statements are in the other files of this room. Whoever awaits `run` goes on after the commit, never before: what was
acknowledged to a device is on the disk. SQLite with a write-ahead log and synchronous=FULL.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

from cloud_sync import limits
from cloud_sync.store.migrate import migrate
from edge_agent.contract.errors import Corrupt, Unavailable
from edge_agent.contract.reasons import Reason

T = TypeVar("T")


def open_engine(path: Path) -> Engine:
    """SQLite as we use it; made if it is not there. One connection: one thread at a time may use it."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": limits.BUSY_TIMEOUT_S},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # sqlite3's own idea of transactions knows no savepoints
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def translated(what: str) -> Iterator[None]:
    """SQLite's errors in our words: busy, full or read-only may pass; the rest is damage."""
    try:
        yield
    except OperationalError as error:
        said = str(error.orig)
        if "malformed" in said or "not a database" in said:
            raise _damaged(what, said) from error
        full = "full" in said
        raise Unavailable(
            f"{what} cannot be used: {said}",
            reason=Reason.DISK_FULL if full else None,
            next_step="" if full else "Check the data folder, its disk and who else has the database open",
        ) from error
    except DBAPIError as error:
        raise _damaged(what, str(error.orig)) from error


def _damaged(what: str, said: str) -> Corrupt:
    return Corrupt(f"{what} is damaged: {said}", next_step="Restore coordinator.db from a backup, then `fleet resume`")


@dataclass(frozen=True)
class _Work:
    """What the thread has to do, and who waits for it."""

    do: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


class Database:
    """Opened and migrated on construction. Raises Unavailable or Corrupt; `close` ends its thread."""

    def __init__(self, path: Path) -> None:
        self._what = str(path)
        self._engine = open_engine(path)
        try:
            with translated(self._what):
                migrate(self._engine)
        except BaseException:
            self._engine.dispose()
            raise
        self._work: queue.Queue[_Work | None] = queue.Queue(limits.WRITES_WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)
        self._thread.start()

    async def run(self, do: Callable[[Connection], T]) -> T:
        """What `do` gives, once it is committed. Its own errors undo only what it did.

        Raises Unavailable when too much waits already, or the disk refuses; Corrupt for a damaged file.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        try:
            self._work.put_nowait(_Work(do, loop, done))
        except queue.Full:
            raise Unavailable(
                "the database does not keep up", next_step="Look for a slow or hanging disk under the data folder"
            ) from None
        return await done

    async def close(self) -> None:
        """Finish what waits, as long as the disk answers: a hanging one is left after twice WRITER_END_S at most."""
        await asyncio.to_thread(self._end)
        if not self._thread.is_alive():
            self._engine.dispose()

    def _end(self) -> None:
        with suppress(queue.Full):
            self._work.put(None, timeout=limits.WRITER_END_S)
        self._thread.join(limits.WRITER_END_S)

    def _run(self) -> None:
        while True:  # until close() puts None
            first = self._work.get()
            if first is None:
                return
            batch, last = [first], False
            while len(batch) < limits.WRITES_PER_COMMIT_MAX and not self._work.empty():
                work = self._work.get()
                if work is None:
                    last = True
                    break
                batch.append(work)
            self._commit(batch)
            if last:
                return

    def _commit(self, batch: list[_Work]) -> None:
        """Do all in one transaction, each in a savepoint of its own."""
        results: list[tuple[_Work, Any, BaseException | None]] = []
        try:
            with translated(self._what), self._engine.begin() as connection:
                for work in batch:
                    try:
                        with translated(self._what), connection.begin_nested():
                            results.append((work, work.do(connection), None))
                    except Exception as error:  # whatever it is, it belongs to whoever asked for this work
                        results.append((work, None, error))
        except Exception as error:  # whatever it is: nobody waits for ever, and nothing of the batch was committed
            results = [(work, None, error) for work in batch]
        for work, result, failed in results:
            work.loop.call_soon_threadsafe(_settle, work.done, result, failed)


def _settle(done: asyncio.Future[Any], result: Any, failed: BaseException | None) -> None:
    if done.done():
        return  # whoever waited has gone
    if failed is not None:
        done.set_exception(failed)
    else:
        done.set_result(result)
