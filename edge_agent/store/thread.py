"""The one thread that touches a database, with safety work before bulk. What is done there is the caller's matter.

A fallback never waits for more than one chunk commit: each piece of bulk work is one short transaction. Each database
has a thread of its own: a write to one that does not come back keeps nobody from reading the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from edge_agent.contract import limits
from edge_agent.contract.errors import Unavailable
from edge_agent.contract.reasons import Reason

Result = TypeVar("Result")


class Priority(IntEnum):
    """Lower goes first."""

    SAFETY = 0  # loads, transitions
    NORMAL = 1
    BULK = 2  # chunks, scrub, collection


class StoreThread:
    """Runs one piece of work after the other; `call` from the event loop."""

    def __init__(self) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]] = queue.PriorityQueue(
            limits.STORE_WORK_WAITING_MAX
        )
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def call(
        self,
        work: Callable[..., Result],
        *arguments: Any,
        priority: Priority = Priority.NORMAL,
        timeout_s: float | None = None,
    ) -> Result:
        """Run this on the store thread and wait.

        Raises what the work raises; Unavailable when too much is waiting, or (disk_hangs) when it has not come back
        after timeout_s: it may be done later all the same.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def run() -> None:
            try:
                result = work(*arguments)
            except BaseException as error:  # carried to the caller, whatever it is
                loop.call_soon_threadsafe(_set_exception, done, error)
            else:
                loop.call_soon_threadsafe(_set_result, done, result)

        try:
            self._queue.put_nowait((priority, next(self._numbers), run))
        except queue.Full:
            raise Unavailable("the store has too much work waiting", next_step="Try again") from None
        await asyncio.wait({done}, timeout=timeout_s)
        if not done.done():
            raise Unavailable("the store does not come back", reason=Reason.DISK_HANGS)
        return done.result()

    def end(self, timeout_s: float | None = None) -> bool:
        """Finish what is queued, then end the thread; False when a disk that hangs has kept it for timeout_s."""
        with contextlib.suppress(queue.Full):
            self._queue.put((Priority.BULK + 1, next(self._numbers), None), timeout=timeout_s)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:  # bounded by its queue; ends with `end`
            _, _, work = self._queue.get()
            if work is None:
                return
            work()


def _set_result(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
