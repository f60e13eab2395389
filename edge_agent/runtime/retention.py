"""Keeps the store within its budget: snapshots that nothing needs go, oldest release first.

What is needed is `core`'s word.
"""

from __future__ import annotations

import asyncio

import structlog

from edge_agent.config import Config
from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError
from edge_agent.core import events as ev
from edge_agent.core.serving import needed_digests
from edge_agent.core.state import ModelState
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.library import Library

log = structlog.get_logger()


class Retention:
    """Active, wanted, last good, candidate and factory stay whatever the budget."""

    def __init__(self, config: Config, library: Library, executor: Executor) -> None:
        self._bytes_max = config.limits.store_bytes_max
        self._library = library
        self._executor = executor

    async def run(self) -> None:
        """Look from time to time, until cancelled."""
        while True:  # one pass a pause; ends by cancellation
            await asyncio.sleep(limits.RETENTION_PAUSE_S)
            try:
                await self.keep_within_budget()
            except HoldfastError as error:
                log.warning("retention_failed", detail=error.message)

    async def keep_within_budget(self) -> None:
        """Remove surplus snapshots one by one, until count and bytes are within their bounds."""
        for state in self._executor.states():
            for digest in removable(state):
                surplus = len(state.known) > limits.SNAPSHOTS_PER_MODEL_MAX
                if not surplus and await self._library.used_bytes() <= self._bytes_max:
                    break
                step = await self._executor.post(ev.Forgotten(state.model, digest))
                if step.refusal is None:
                    await self._library.remove(digest)
                    log.info("snapshot_removed", model=state.model, snapshot=digest)
                state = step.state


def removable(state: ModelState) -> tuple[str, ...]:
    """Snapshots that nothing needs, the oldest release first."""
    needed = needed_digests(state)
    spare = [known for known in state.known if known.digest not in needed]
    return tuple(known.digest for known in sorted(spare, key=lambda known: known.release))
