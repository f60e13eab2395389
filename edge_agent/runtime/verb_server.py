"""A unix socket on which a peer asks by verbs: who may connect, how much, how long. What they do is not known here.

Peers are checked by the kernel's word (SO_PEERCRED); every request is bounded in size and time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected
from edge_agent.contract.reasons import Reason
from edge_agent.worker import wire

log = structlog.get_logger()

Session = TypeVar("Session")
Header = dict[str, Any]
Answer = tuple[Header, bytes]
Verb = Callable[[Session, Header, bytes], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """connections_max: one more is told so. first_s: to the first request. idle_s: between two, and for an answer to be
    taken.
    """

    connections_max: int
    first_s: float
    idle_s: float


class VerbServer(Generic[Session]):
    """Serves one socket; each connection has a session of its own."""

    def __init__(
        self,
        role: str,
        bounds: Bounds,
        verbs: Mapping[str, Verb[Session]],
        new_session: Callable[[], Session],
        gone: Callable[[Session], None],
    ) -> None:
        self._role = role
        self._bounds = bounds
        self._verbs = dict(verbs)
        self._new_session = new_session
        self._gone = gone
        self._server: asyncio.Server | None = None
        self._peers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._ending = False

    async def start(self, path: Path) -> None:
        """Listen. Raises Rejected when that is not possible."""
        path.unlink(missing_ok=True)
        try:
            self._server = await asyncio.start_unix_server(self._serve, path, backlog=self._bounds.connections_max)
        except OSError as error:
            raise Rejected(
                f"cannot listen at {path}: {error}", next_step="See whether that folder can be written"
            ) from error
        path.chmod(0o600)

    async def end(self) -> None:
        """Stop listening, and end the connections that there are: a long poll waits no longer."""
        self._ending = True
        if self._server:
            self._server.close()
        for writer, serving in self._peers.items():
            writer.transport.abort()
            serving.cancel()
        if self._peers:
            await asyncio.wait(self._peers.values(), timeout=limits.WORKER_END_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _is_allowed(writer):
            writer.close()
            return
        if len(self._peers) >= self._bounds.connections_max:
            writer.write(wire.encode_frame(self._too_many()))  # unasked: a peer beyond the bound is not waited for
            writer.close()
            return
        serving = asyncio.current_task()
        assert serving is not None
        session = self._new_session()
        self._peers[writer] = serving
        try:
            await self._converse(session, reader, writer)
        except (TimeoutError, OSError, wire.WireError) as error:
            log.info("connection_ended", role=self._role, detail=str(error) or type(error).__name__)
        except asyncio.CancelledError:
            if not self._ending:  # else asyncio would log a task that was cancelled as a failure
                raise
        finally:
            self._peers.pop(writer, None)
            self._gone(session)
            writer.close()

    def _too_many(self) -> Header:
        return {
            "ok": False,
            "reason": "unavailable",
            "message": f"{self._bounds.connections_max} connections are open to the agent already",
            "next_step": "Try again in a few seconds",
        }

    async def _converse(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the peer hangs up. Raises TimeoutError when it says nothing, or takes no answer."""
        decoder = wire.FrameDecoder()
        now_s = asyncio.get_running_loop().time
        silent_until_s = now_s() + self._bounds.first_s
        while True:  # one pass a message; a silent peer is cut off
            async with asyncio.timeout_at(silent_until_s):
                data = await reader.read(1 << 18)
            if not data:
                return
            for header, payload in decoder.feed(data):
                answer, answer_payload = await self._answer(session, header, payload)
                writer.write(wire.encode_frame({**answer, "reply": header.get("id")}, answer_payload))
                async with asyncio.timeout(limits.OFFER_IDLE_S):
                    await writer.drain()  # before the next one: answers that nobody reads are not piled up
                silent_until_s = now_s() + self._bounds.idle_s

    async def _answer(self, session: Session, header: Header, payload: bytes) -> Answer:
        verb = self._verbs.get(str(header.get("op")))
        try:
            if verb is None:
                raise Rejected(f"there is no verb {header.get('op')!r}"[:200], reason=Reason.MALFORMED)
            async with asyncio.timeout(limits.ADMIN_REQUEST_S):
                fields, answer_payload = await verb(session, header, payload)
            return {"ok": True, **fields}, answer_payload
        except HoldfastError as error:
            word = error.reason.value if error.reason else type(error).__name__.lower()
            return {"ok": False, "reason": word, "message": error.message, "next_step": error.next_step}, b""
        except TimeoutError:
            return {"ok": False, "reason": "timeout", "message": "not done in time", "next_step": "Try again"}, b""


def whole_number(header: Header, key: str, default: int, minimum: int, maximum: int) -> int:
    """A number of a request, within bounds. Raises Rejected (malformed)."""
    value = header.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Rejected(f"{key} is not a number", reason=Reason.MALFORMED)
    return max(minimum, min(value, maximum))


def _is_allowed(writer: asyncio.StreamWriter) -> bool:
    """Root, or the user that the runtime runs as."""
    sock: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (0, os.getuid())
