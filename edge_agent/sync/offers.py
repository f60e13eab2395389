"""Brings what the runtime wants: manifest, evidence and missing chunks, fetched and offered one snapshot at a time.

The runtime says what it wants and verifies each byte; how bytes come is `fetching`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.evidence import encode_evidence
from edge_agent.contract.manifest import chunk_lengths, parse_manifest
from edge_agent.contract.reasons import Reason
from edge_agent.contract.transfer import Kind
from edge_agent.sync.fetching import Fetcher, together
from edge_agent.sync.line import LineCut
from edge_agent.sync.link import RuntimeGone, RuntimeLink, Session, send_pieces
from edge_agent.sync.metadata import MetadataKeeper
from edge_agent.sync.patience import Troubles

log = structlog.get_logger()

BACKOFF_BASE_S = 5.0
BACKOFF_CAP_S = 600.0
LOOK_S = 60.0  # wants are asked for so often without any word of a change
CHUNKS_AT_ONCE = 3  # one is being committed, one comes, one waits: neither the link nor the disk stands still
KEEP_S = 10.0  # the runtime hears of an offer so often, also while a chunk takes long to come
GONE_S = 0.5
CUT_S = 0.05


@dataclass(frozen=True, slots=True)
class Want:
    """What may be offered here now. repair: stored bytes of it are damaged."""

    model: str
    digest: str
    version: str
    repair: bool


class Offers:
    """One for the process. `changed` is set when the wants may be others."""

    def __init__(self, link: RuntimeLink, fetcher: Fetcher, keeper: MetadataKeeper, up: asyncio.Event) -> None:
        self.changed = asyncio.Event()
        self._link = link
        self._fetcher = fetcher
        self._keeper = keeper
        self._up = up
        self._troubles = Troubles()
        self._manifest = "", b""  # the last one and its digest: another try does not fetch it again
        self._expired = False  # the metadata had, at the last try: the publisher may have signed it again since
        self._bringing = False  # bytes are on their way, which is worth while only as long as they are wanted

    def forgive(self) -> None:
        """There is a new assignment: what it names is tried at once, whatever happened before."""
        self._troubles = Troubles()
        self.changed.set()

    async def run(self) -> None:
        """Offer what is wanted and not in trouble, one after the other."""
        while True:  # as long as the process lives; each pass offers something or waits
            await self._up.wait()
            self.changed.clear()
            wants = await self._wants()
            now_s = asyncio.get_running_loop().time()
            waits = {want: self._troubles.wait_s(want.digest, now_s) for want in wants}
            due = next((want for want in wants if not waits[want]), None)
            if due is not None:
                await self._try(due)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min([LOOK_S, *waits.values()])):
                        await self.changed.wait()

    async def _try(self, want: Want) -> None:
        """One attempt, given up when its bytes are not wanted any more; a failure is noted."""
        offering = asyncio.create_task(self._offer(want))
        try:
            await self._while_wanted(want, offering)
            if offering.cancelled():
                log.info("offer_superseded", model=want.model, snapshot=want.digest)
                return
            offering.result()
        except HoldfastError as error:
            word = error.reason.value if error.reason else type(error).__name__
            log.warning("offer_failed", model=want.model, snapshot=want.digest, reason=word, detail=str(error))
            self._expired = self._expired or error.reason is Reason.EXPIRED
            if not isinstance(error, LineCut | RuntimeGone):
                self._note_trouble(want)
        else:
            log.info("offered", model=want.model, version=want.version, snapshot=want.digest, repair=want.repair)
            self._troubles = self._troubles.cleared(want.digest)
            self._manifest = "", b""
            if want in await self._wants():
                self._note_trouble(want)  # it was taken and is wanted still: not again at once
        finally:
            offering.cancel()
            await asyncio.gather(offering, return_exceptions=True)

    async def _while_wanted(self, want: Want, offering: asyncio.Task[None]) -> None:
        """Return when the offer has ended, or was cancelled because of another wish."""
        while not offering.done():
            changing = asyncio.create_task(self.changed.wait())
            try:
                await asyncio.wait((offering, changing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                changing.cancel()
            if not offering.done():
                self.changed.clear()
                wanted = {other.digest for other in await self._wants()}
                if self._bringing and want.digest not in wanted:
                    offering.cancel()
                    await asyncio.gather(offering, return_exceptions=True)

    async def _offer(self, want: Want) -> None:
        """Raises HoldfastError: what is in the way."""
        if self._manifest[0] != want.digest:
            raw = await self._patiently(Kind.MANIFEST, want.digest, limits.MANIFEST_BYTES_MAX, None)
            self._manifest = want.digest, raw
        raw = self._manifest[1]
        await self._keeper.settled()
        if self._expired or not self._keeper.names(want.model, want.version, want.digest):
            self._expired = not await self._keeper.refresh()
        evidence = self._keeper.files.evidence()
        if evidence is None:
            raise Unavailable("the signed metadata is not complete yet")
        encoded = encode_evidence(evidence)
        lengths = _chunk_lengths(raw)
        while True:  # each pass is a connection to the runtime; chunks that it has are not wanted again
            try:
                async with self._link.session() as session:
                    await self._offer_on(session, encoded, raw, lengths)
                    return
            except RuntimeGone:
                await asyncio.sleep(GONE_S)

    async def _offer_on(self, session: Session, evidence: bytes, manifest: bytes, lengths: dict[str, int]) -> None:
        await send_pieces(session, "evidence", evidence)
        await send_pieces(session, "manifest", manifest)
        _, hashes = await session.ask("offer_begin")
        wanted = deque(hashes[at : at + 32].hex() for at in range(0, len(hashes), 32))
        bringing = (self._bring(session, wanted, lengths) for _ in range(CHUNKS_AT_ONCE))
        fetching = asyncio.create_task(together(*bringing))
        self._bringing = True
        try:
            while not fetching.done():
                await asyncio.wait((fetching,), timeout=KEEP_S)
                if not fetching.done():
                    await session.ask("wants")  # a sign of life: the offer is not abandoned
            fetching.result()
        finally:
            self._bringing = False
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        await session.ask("offer_end")

    async def _bring(self, session: Session, wanted: deque[str], lengths: dict[str, int]) -> None:
        while wanted:
            sha256 = wanted.popleft()
            chunk = await self._patiently(Kind.CHUNK, sha256, limits.CHUNK_BYTES, lengths.get(sha256))
            await session.ask("offer_chunk", chunk, sha256=sha256)

    async def _patiently(self, kind: Kind, sha256: str, bytes_max: int, total_bytes: int | None) -> bytes:
        """A cut of the line is waited for, and costs what was in flight. Raises NotServed, Unavailable, Rejected."""
        while True:  # each pass is a connection to the broker
            await self._up.wait()
            try:
                return await self._fetcher.by_hash(kind, sha256, bytes_max=bytes_max, total_bytes=total_bytes)
            except LineCut:
                await asyncio.sleep(CUT_S)  # the line may not know yet

    async def _wants(self) -> tuple[Want, ...]:
        try:
            answer, _ = await self._link.ask_patiently("wants")
        except (Rejected, Unavailable) as error:
            log.warning("wants_unknown", detail=str(error))
            return ()
        return tuple(want for stated in answer.get("wants", ()) if (want := _want(stated)) is not None)

    def _note_trouble(self, want: Want) -> None:
        now_s = asyncio.get_running_loop().time()
        self._troubles = self._troubles.noted(
            want.digest, now_s, random.random(), base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S
        )


def _want(stated: Any) -> Want | None:
    if not isinstance(stated, dict):
        return None
    model, digest, version = (str(stated.get(key, "")) for key in ("model", "digest", "version"))
    return Want(model, digest, version, stated.get("repair") is True)


def _chunk_lengths(manifest_raw: bytes) -> dict[str, int]:
    """How long each chunk is, so that it can be asked for in parts at once; what a manifest is, the runtime judges."""
    try:
        entries = parse_manifest(manifest_raw).files
    except Rejected:
        return {}
    return {
        sha256: length for entry in entries for sha256, length in zip(entry.chunks, chunk_lengths(entry), strict=False)
    }
