"""Reading stored bytes again in the background, at a bounded rate. What damage leads to is decided in `core`."""

from __future__ import annotations

import asyncio
import time

import structlog

from edge_agent.config import Config
from edge_agent.contract.errors import HoldfastError
from edge_agent.core import events as ev
from edge_agent.core.serving import needed_digests
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.library import Library

log = structlog.get_logger()

PIECE_S = 0.25  # a piece of a scrub is what the rate allows in this time: short, so that nothing waits for it


class Scrubber:
    """Scrubs what is needed (active, last good, candidate): silent damage is found before the bytes are."""

    def __init__(self, config: Config, library: Library, executor: Executor) -> None:
        self._interval_s = config.scrub.interval_s
        self._chunks_per_s = config.scrub.chunks_per_s
        self._library = library
        self._executor = executor
        self.last_unix_ms = 0
        self.chunks = 0

    async def run(self) -> None:
        """One pass per interval, until cancelled."""
        while True:  # one pass an interval; ends by cancellation
            await asyncio.sleep(self._interval_s)
            await self.scrub_all(needed_only=True)
            self.last_unix_ms = time.time_ns() // 1_000_000

    async def scrub_all(self, *, needed_only: bool) -> dict[str, int]:
        """Scrub the snapshots of all slots; digest -> damaged or missing chunks."""
        damaged: dict[str, int] = {}
        for state in self._executor.states():
            needed = needed_digests(state)
            for known in state.known:
                if known.factory or (needed_only and known.digest not in needed):
                    continue
                damaged[known.digest] = await self._scrub_one(state.model, known.digest)
        return damaged

    async def _scrub_one(self, model: str, digest: str) -> int:
        manifest = self._library.manifest(digest)
        if manifest is None or self._library.is_only_in_factory(digest):
            return 0
        position: int | None = 0
        damaged = 0
        while position is not None:  # each piece moves on; the manifest bounds them
            try:
                piece = max(1, int(self._chunks_per_s * PIECE_S))
                scrubbed = await self._library.scrub(manifest, position, piece)
            except HoldfastError as error:
                log.error("scrub_failed", model=model, snapshot=digest, detail=error.message)
                return damaged
            self.chunks += piece
            damaged += len(scrubbed.damaged)
            position = scrubbed.next_chunk
            if position is not None:
                await asyncio.sleep(PIECE_S)
        known = self._executor.state(model).find(digest)
        if damaged and known and not known.damaged:
            await self._executor.post(ev.DamageFound(model, digest, damaged))
        return damaged
