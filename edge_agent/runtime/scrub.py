"""Reading stored bytes again in the background, at a bounded rate. What damage leads to is decided in `core`."""

from __future__ import annotations

import asyncio

import structlog

from edge_agent.config import Config
from edge_agent.contract import limits
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

    async def run(self) -> None:
        """One pass per interval, until cancelled."""
        while True:  # one pass an interval; ends by cancellation
            await asyncio.sleep(self._interval_s)
            await self.scrub_needed()

    async def scrub_needed(self) -> dict[str, int]:
        """Scrub what the slots need, at the configured rate; digest -> damaged or missing chunks."""
        damaged: dict[str, int] = {}
        for state in self._executor.states():
            needed = needed_digests(state)
            for known in state.known:
                if known.digest in needed and not known.factory:
                    damaged[known.digest] = await self._scrub_one(state.model, known.digest, self._chunks_per_s)
        return damaged

    async def verify_all(self) -> dict[str, int]:
        """Scrub every snapshot, factory snapshots too, as fast as more urgent work lets it."""
        damaged: dict[str, int] = {}
        for state in self._executor.states():
            for known in state.known:
                damaged[known.digest] = await self._scrub_one(state.model, known.digest, None)
        return damaged

    async def _scrub_one(self, model: str, digest: str, chunks_per_s: int | None) -> int:
        manifest = self._library.manifest(digest)
        if manifest is None:
            return 0
        in_factory = self._library.is_in_factory(digest)
        piece = limits.GARBAGE_CHUNKS_AT_ONCE if chunks_per_s is None else max(1, int(chunks_per_s * PIECE_S))
        position: int | None = 0
        damaged = 0
        while position is not None:  # each piece moves on; the manifest bounds them
            try:
                if in_factory:
                    scrubbed = await self._library.scrub_factory(digest, manifest, position, piece)
                else:
                    scrubbed = await self._library.scrub(manifest, position, piece)
            except HoldfastError as error:
                log.error("scrub_failed", model=model, snapshot=digest, detail=error.message)
                return damaged
            damaged += len(scrubbed.damaged)
            position = scrubbed.next_chunk
            if position is not None and chunks_per_s is not None:
                await asyncio.sleep(PIECE_S)
        await self._tell(model, digest, damaged)
        return damaged

    async def _tell(self, model: str, digest: str, damaged: int) -> None:
        """A damaged factory file cannot be repaired by an offer: people have to know, the core does not."""
        known = self._executor.state(model).find(digest)
        if not damaged or known is None:
            return
        if known.factory:
            log.error("factory_damaged", model=model, snapshot=digest, damaged_chunks=damaged,
                      next_step="Install the factory snapshot again: edge-agent factory")  # fmt: skip
        elif not known.damaged:
            await self._executor.post(ev.DamageFound(model, digest, damaged))
