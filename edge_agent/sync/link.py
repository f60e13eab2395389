"""The client of the runtime's sync socket: framed requests, one at a time on each connection. What is asked, and what
follows from an answer, is said elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Blame, reason_from_word
from edge_agent.worker import wire

log = structlog.get_logger()

Header = dict[str, Any]

READ_BYTES = 1 << 18
PIECE_BYTES = limits.MIB
CONNECT_S = 5.0
ASK_S = limits.ADMIN_REQUEST_S + 5.0  # the runtime answers within its own bound, or hangs
RETRY_S = 0.2
RETRY_CAP_S = 10.0
ORPHAN_LOOK_S = 0.25


class RuntimeGone(Unavailable):
    """The runtime does not answer on its socket now; it may be restarting."""


class Session:
    """One connection. A request that fails on the way ends it, an answer of no does not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._frames: deque[tuple[Header, bytes]] = deque()
        self._decoder = wire.FrameDecoder()
        self._numbers = itertools.count(1)
        self._in_turn = asyncio.Lock()

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked here any more."""
        return self._writer.is_closing() or self._reader.at_eof()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def ask(
        self, op: str, payload: bytes = b"", *, timeout_s: float = ASK_S, **fields: Any
    ) -> tuple[Header, bytes]:
        """One request. Raises Rejected or Unavailable as the runtime says, RuntimeGone when it does not answer."""
        async with self._in_turn:
            number = next(self._numbers)
            try:
                async with asyncio.timeout(timeout_s):
                    self._writer.write(wire.encode_frame({"op": op, "id": number, **fields}, payload))
                    await self._writer.drain()
                    header, answer = await self._answer_to(number)
            except (OSError, wire.WireError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
                self.close()
                raise RuntimeGone(f"the runtime did not answer {op!r}: {error or type(error).__name__}") from error
        if header.get("ok") is True:
            return header, answer
        raise _refusal(header)

    async def _answer_to(self, number: int) -> tuple[Header, bytes]:
        while True:  # bounded by the time-out; answers to requests that were given up are passed over
            while self._frames:
                header, payload = self._frames.popleft()
                if header.get("reply") in (number, None):
                    return header, payload
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise ConnectionResetError("the connection was closed")
            self._frames.extend(self._decoder.feed(data))


class RuntimeLink:
    """The runtime, as this process knows it: several connections, and since when it cannot be reached."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._common: Session | None = None
        self._opening = asyncio.Lock()
        self._unreached_since_s: float | None = None

    @property
    def folder(self) -> Path:
        """Where the socket is: in memory, private to the agent's user."""
        return self._path.parent

    async def open(self) -> Session:
        """A connection of one's own, for what belongs together. Raises RuntimeGone."""
        try:
            async with asyncio.timeout(CONNECT_S):
                session = Session(*await asyncio.open_unix_connection(self._path))
        except OSError as error:
            self.note_unreached()
            raise RuntimeGone(f"nobody listens at {self._path.name}: {error}") from error
        self._unreached_since_s = None
        return session

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Such a connection for a block, closed at its end. Raises RuntimeGone."""
        session = await self.open()
        try:
            yield session
        except RuntimeGone:
            self.note_unreached()
            raise
        finally:
            session.close()

    async def ask(self, op: str, payload: bytes = b"", **fields: Any) -> tuple[Header, bytes]:
        """One request on the common connection; on a fresh one when the runtime had closed it, which is no news.

        Raises Rejected or Unavailable as the runtime says, RuntimeGone when it is not there.
        """
        for fresh in (False, True):
            async with self._opening:
                if self._common is None or self._common.closed:
                    self._common, fresh = await self.open(), True
                session = self._common
            try:
                return await session.ask(op, payload, **fields)
            except RuntimeGone:
                if fresh:
                    self.note_unreached()
                    raise
        raise AssertionError("the second connection is a fresh one")

    async def ask_patiently(self, op: str, payload: bytes = b"", **fields: Any) -> tuple[Header, bytes]:
        """As `ask`, but a runtime that is restarting, or cannot now, is waited for. Raises Rejected."""
        pause_s = RETRY_S
        while True:  # ends with the process when the runtime does not come back (`until_orphaned`)
            try:
                return await self.ask(op, payload, **fields)
            except RuntimeGone:
                await asyncio.sleep(RETRY_S)
            except Unavailable as error:
                log.warning("runtime_cannot_now", op=op, detail=str(error), again_in_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_CAP_S)

    async def until_orphaned(self, orphan_s: float) -> None:
        """Return once the runtime could not be reached for so long."""
        while True:  # as long as the runtime is there, or not gone for long
            await asyncio.sleep(min(ORPHAN_LOOK_S, orphan_s))
            since_s = self._unreached_since_s
            if since_s is not None and time.monotonic() - since_s >= orphan_s:
                break
        log.warning("sync_orphaned", orphan_s=orphan_s)

    def note_unreached(self) -> None:
        """A connection ended or was not answered; one that can be made ends this."""
        if self._unreached_since_s is None:
            self._unreached_since_s = time.monotonic()


async def send_pieces(session: Session, document: str, raw: bytes) -> None:
    """Hand over a document in pieces. Raises as `Session.ask` does."""
    for at in range(0, len(raw), PIECE_BYTES):
        await session.ask("piece", raw[at : at + PIECE_BYTES], document=document)


def _refusal(header: Header) -> HoldfastError:
    message, next_step = str(header.get("message", "refused")), str(header.get("next_step", ""))
    word = str(header.get("reason"))
    try:
        reason = reason_from_word(word)
    except KeyError:  # a refusal without a reason carries the name of its class
        return (Rejected if word == "rejected" else Unavailable)(message, next_step=next_step)
    kind = Unavailable if reason.blame is Blame.DECLINED else Rejected
    return kind(message, reason=reason, next_step=next_step)
