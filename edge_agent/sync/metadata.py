"""Keeps the signed metadata fresh: what the runtime has kept, refreshed from the coordinator, handed back for the
runtime to verify. The walk itself is `updater`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from edge_agent.contract import limits
from edge_agent.contract.envelope import COORDINATOR_TARGET_PATH
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.evidence import (
    EVIDENCE_BYTES_MAX,
    MetadataFiles,
    decode_metadata_files,
    encode_evidence,
    manifest_target_path,
)
from edge_agent.contract.transfer import Kind, Status
from edge_agent.sync.fetching import Fetcher
from edge_agent.sync.link import RuntimeLink, send_pieces
from edge_agent.sync.patience import pause_s
from edge_agent.sync.requests import NotServed
from edge_agent.sync.signed_words import stated_digest

log = structlog.get_logger()

EVERY_S = 6 * 3600.0  # a publisher's timestamp is good for days; this is how soon a revocation is heard of
RETRY_BASE_S = 5.0
RETRY_CAP_S = 600.0
ASKED_PAUSE_S = 5.0  # a stream of refused documents is no stream of refreshes


class MetadataKeeper:
    """One for the process.

    on_taken: called after each hand-over. on_fault: told after each refresh why it is not fresh, '' = it is.
    folder: for python-tuf.
    """

    def __init__(
        self,
        link: RuntimeLink,
        fetcher: Fetcher,
        up: asyncio.Event,
        on_taken: Callable[[], None],
        on_fault: Callable[[str], None],
        folder: Path,
    ) -> None:
        self.files = MetadataFiles()
        self._link = link
        self._fetcher = fetcher
        self._up = up
        self._on_taken = on_taken
        self._on_fault = on_fault
        self._folder = folder
        self._one_at_a_time = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tuf")
        self._wanted = asyncio.Event()
        self._wanted_later: asyncio.TimerHandle | None = None
        self._refreshed_s = 0.0

    async def run(self) -> None:
        """Refresh at each connection, when asked to, and every EVERY_S; after a failure sooner."""
        failures = 0
        while True:  # as long as the process lives; each pass refreshes once and waits
            await self._up.wait()
            self._wanted.clear()
            failures = 0 if await self.refresh() else failures + 1
            chance = random.random()
            if failures:
                wait_s = pause_s(failures - 1, chance, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)
            else:
                wait_s = pause_s(0, chance, base_s=EVERY_S, cap_s=EVERY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()

    def want(self) -> None:
        """Refresh soon: there is a new connection, or something was refused that newer metadata may explain."""
        self._wanted.set()

    def want_soon(self) -> None:
        """Like `want`, but with a pause after the last refresh: wishes in between are one."""
        if self._wanted_later is None:
            at_s = self._refreshed_s + ASKED_PAUSE_S
            self._wanted_later = asyncio.get_running_loop().call_at(at_s, self._want_now)

    def _want_now(self) -> None:
        self._wanted_later = None
        self.want()

    def names(self, model: str, version: str, digest: str) -> bool:
        """Whether the present targets name this snapshot."""
        return stated_digest(self.files, manifest_target_path(model, version)) == digest

    async def settled(self) -> None:
        """Return when no refresh is under way."""
        async with self._one_at_a_time:
            return

    async def refresh(self) -> bool:
        """Fetch what is new and hand it to the runtime, also when only a part of it came. Whether all is fresh."""
        async with self._one_at_a_time:
            try:
                kept = await self._kept()
            except HoldfastError as error:
                log.warning("metadata_not_refreshed", detail=f"the runtime: {error}")
                return False
            fault = await self._walk(kept)
            coordinator, coordinator_fault = await self._coordinator_key()
            handed_over = await self._hand_over(coordinator)
            self._refreshed_s = asyncio.get_running_loop().time()
            fault = fault or coordinator_fault
            self._on_fault(fault)
            if fault:
                log.warning("metadata_not_fresh", detail=fault[: limits.DETAIL_CHARS_MAX])
            return handed_over and not fault

    async def _kept(self) -> MetadataFiles:
        """What the runtime keeps verified; nothing at first. Raises HoldfastError."""
        raw = bytearray()
        while len(raw) <= EVIDENCE_BYTES_MAX:
            answer, piece = await self._link.ask("kept_metadata", at=len(raw))
            raw += piece
            if not piece or len(raw) >= int(answer.get("bytes", 0)):
                break
        return decode_metadata_files(bytes(raw)) if raw else MetadataFiles()

    async def _walk(self, kept: MetadataFiles) -> str:
        """Set `files`; why they are not fresh."""
        loop = asyncio.get_running_loop()

        def ask(name: str) -> bytes:
            """In python-tuf's thread: wait for the event loop to fetch this."""
            fetching = self._fetcher.by_name(Kind.METADATA, name, bytes_max=limits.METADATA_BYTES_MAX)
            return asyncio.run_coroutine_threadsafe(fetching, loop).result()

        self.files, fault = await loop.run_in_executor(self._thread, _refreshed, kept, ask, self._folder)
        return fault

    async def _coordinator_key(self) -> tuple[bytes, str]:
        """coordinator.json as the publisher signed it, empty when there is none yet; and why it did not come."""
        bytes_max = limits.COORDINATOR_KEY_BYTES_MAX
        try:
            return await self._fetcher.by_name(Kind.COORDINATOR, COORDINATOR_TARGET_PATH, bytes_max=bytes_max), ""
        except NotServed as error:
            return b"", "" if error.status == Status.NOT_THERE else str(error)
        except (Unavailable, Rejected) as error:
            return b"", str(error)

    async def _hand_over(self, coordinator: bytes) -> bool:
        try:
            async with self._link.session() as session:
                await send_pieces(session, "metadata", encode_evidence(self.files))
                await send_pieces(session, "coordinator", coordinator)
                answer, _ = await session.ask("take_metadata")
        except HoldfastError as error:
            log.warning("metadata_not_taken", detail=str(error), reason=error.reason and error.reason.value)
            if isinstance(error, Rejected):
                self._on_taken()  # what verified before the fault was taken all the same
            return False
        log.info("metadata_taken", epoch=answer.get("epoch"))
        self._on_taken()
        return True


def _refreshed(kept: MetadataFiles, ask: Callable[[str], bytes], folder: Path) -> tuple[MetadataFiles, str]:
    """In the thread, as the import is: it takes long enough to hold up everything else."""
    from edge_agent.sync import updater

    return updater.refresh(kept, ask, folder)
