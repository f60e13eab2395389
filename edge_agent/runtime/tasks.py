"""Background tasks of the runtime: kept alive, ended together, and never failing in silence.

What they do is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from edge_agent.contract.errors import Bug

log = structlog.get_logger()


class Tasks:
    """A set of running tasks; one that fails unexpectedly is a bug, and ends the process through `failed`."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run this in the background."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def fail(self, bug: Bug) -> None:
        """Something that cannot be gone on with: the process ends through `failed`."""
        if not self.failed.done():
            self.failed.set_exception(bug)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.failed.done():
            log.error("task_failed", task=task.get_name(), exc_info=error)
            self.failed.set_exception(error)

    async def end(self) -> None:
        """Cancel all tasks and wait for them."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.failed.done():
            self.failed.exception()
        else:
            self.failed.cancel()
