"""The admin socket: what an operator on the device may ask, and how a snapshot is offered from a file.

Peers are checked by the kernel's word (SO_PEERCRED); verbs are translated to events here, and decided in `core`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.state import Status
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.offers import Offer, OfferDesk
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.scrub import Scrubber
from edge_agent.runtime.status import model_document
from edge_agent.worker import wire

log = structlog.get_logger()

Header = dict[str, Any]
Answer = tuple[Header, bytes]
Verb = Callable[["Session", Header, bytes], Awaitable[Answer]]

_TOO_MANY = {
    "ok": False,
    "reason": "unavailable",
    "message": f"{limits.ADMIN_CONNECTIONS_MAX} commands are connected to the agent already",
    "next_step": "Try again in a few seconds",
}


@dataclass
class Session:
    """One connection: an operator's command, or an offer in progress."""

    offer: Offer


class AdminServer:
    """Serves the admin socket. Every request is bounded in size and time; a silent peer is cut off."""

    def __init__(
        self,
        executor: Executor,
        desk: OfferDesk,
        scrubber: Scrubber,
        store: AgentStore,
        status: Callable[[], Awaitable[Header]],
        routed: Callable[[str], str | None],
    ) -> None:
        self._executor = executor
        self._desk = desk
        self._scrubber = scrubber
        self._store = store
        self._status = status
        self._routed = routed
        self._server: asyncio.Server | None = None
        self._peers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._verbs: dict[str, Verb] = {
            "status": self._do_status,
            "history": self._do_history,
            "rollback": self._do_rollback,
            "verify": self._do_verify,
            "wait": self._do_wait,
            "offer_piece": self._do_offer_piece,
            "offer_begin": self._do_offer_begin,
            "offer_chunk": self._do_offer_chunk,
            "offer_end": self._do_offer_end,
        }

    async def start(self, path: Path) -> None:
        """Listen. Raises Rejected when that is not possible."""
        path.unlink(missing_ok=True)
        try:
            self._server = await asyncio.start_unix_server(self._serve, path, backlog=limits.ADMIN_CONNECTIONS_MAX)
        except OSError as error:
            raise Rejected(
                f"cannot listen at {path}: {error}", next_step="See whether that folder can be written"
            ) from error
        path.chmod(0o600)

    async def end(self) -> None:
        """Stop listening, and end the connections that there are."""
        if self._server:
            self._server.close()
        for writer in self._peers:
            writer.transport.abort()
        if self._peers:
            await asyncio.wait(self._peers.values(), timeout=limits.WORKER_END_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(Offer())
        if not _is_allowed(writer):
            writer.close()
            return
        if len(self._peers) >= limits.ADMIN_CONNECTIONS_MAX:
            writer.write(wire.encode_frame(_TOO_MANY))  # unasked: nothing of a peer beyond the bound is waited for
            writer.close()
            return
        serving = asyncio.current_task()
        assert serving is not None
        self._peers[writer] = serving
        try:
            await self._converse(session, reader, writer)
        except (TimeoutError, OSError, wire.WireError) as error:
            log.info("admin_connection_ended", detail=str(error) or type(error).__name__)
        finally:
            self._peers.pop(writer, None)
            self._desk.gone(session.offer)
            writer.close()

    async def _converse(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the peer hangs up. Raises TimeoutError when it says nothing, or takes no answer."""
        decoder = wire.FrameDecoder()
        now_s = asyncio.get_running_loop().time
        silent_until_s = now_s() + limits.ADMIN_FIRST_S
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
                silent_until_s = now_s() + limits.OFFER_IDLE_S

    async def _answer(self, session: Session, header: Header, payload: bytes) -> Answer:
        verb = self._verbs.get(str(header.get("op")))
        try:
            if verb is None:
                raise Rejected(f"there is no verb {header.get('op')!r}", reason=Reason.MALFORMED)
            async with asyncio.timeout(limits.ADMIN_REQUEST_S):
                fields, answer_payload = await verb(session, header, payload)
            return {"ok": True, **fields}, answer_payload
        except HoldfastError as error:
            word = error.reason.value if error.reason else type(error).__name__.lower()
            return {"ok": False, "reason": word, "message": error.message, "next_step": error.next_step}, b""
        except TimeoutError:
            return {"ok": False, "reason": "timeout", "message": "not done in time", "next_step": "Try again"}, b""

    # ---- the operator's verbs

    async def _do_status(self, session: Session, header: Header, payload: bytes) -> Answer:
        return {"status": await self._status()}, b""

    async def _do_history(self, session: Session, header: Header, payload: bytes) -> Answer:
        newest = _int(header, "newest", 50, 1, limits.HISTORY_LINES_MAX)
        lines = await self._store.journal(self._model_or_none(header), newest)
        return {
            "lines": [{"number": x.number, "at_unix_ms": x.at_unix_ms, "model": x.model, **x.entry} for x in lines]
        }, b""

    async def _do_rollback(self, session: Session, header: Header, payload: bytes) -> Answer:
        model = self._model(header)
        version = header.get("version")
        step = await self._executor.post(ev.RollbackAsked(model, str(version) if version is not None else None))
        if step.refusal is not None:
            raise Rejected(step.refusal.text, reason=step.refusal.reason)
        target = step.state.wanted
        seen = self._executor.changes
        while True:  # bounded by ADMIN_REQUEST_S
            state = self._executor.state(model)
            if state.active == target and state.status is Status.UP and self._routed(model) == target:
                unsaved = self._executor.storage_reason
                saved = {"saved": self._executor.is_saved(model), "storage": unsaved.value if unsaved else None}
                return {"model": model_document(state, self._routed(model)), **saved}, b""
            if state.wanted != target or target not in (state.active, state.raising):
                raise Unavailable(
                    f"{model}: the snapshot did not come up, what served before still serves",
                    next_step="See `edge-agent history` for the reason",
                )
            seen = await self._executor.wait_change(seen, limits.ADMIN_REQUEST_S)

    async def _do_verify(self, session: Session, header: Header, payload: bytes) -> Answer:
        damaged = await self._scrubber.verify_all()
        return {"damaged_chunks": damaged}, b""

    async def _do_wait(self, session: Session, header: Header, payload: bytes) -> Answer:
        """Long poll: answers when something has changed since `seen`, or after a while."""
        model = self._model(header)
        seen = _int(header, "seen", -1, -1, 1 << 62)
        changes = await self._executor.wait_change(seen, min(limits.LONG_POLL_S, limits.OFFER_IDLE_S / 2))
        return {"seen": changes, "model": model_document(self._executor.state(model), self._routed(model))}, b""

    # ---- an offer

    async def _do_offer_piece(self, session: Session, header: Header, payload: bytes) -> Answer:
        self._desk.add_piece(session.offer, str(header.get("document")), payload)
        return {}, b""

    async def _do_offer_begin(self, session: Session, header: Header, payload: bytes) -> Answer:
        wanted = await self._desk.begin(
            session.offer,
            retry=header.get("retry") is True,
            claimed_model=str(header.get("model", ""))[: limits.NAME_CHARS_MAX],
            claimed_version=str(header.get("version", ""))[: limits.VERSION_CHARS_MAX],
        )
        verified = session.offer.verified
        assert verified is not None
        fields = {"digest": verified.digest, "model": verified.manifest.name, "version": verified.manifest.version}
        return {**fields, "wanted": len(wanted)}, b"".join(bytes.fromhex(sha256) for sha256 in wanted)

    async def _do_offer_chunk(self, session: Session, header: Header, payload: bytes) -> Answer:
        await self._desk.put_chunk(session.offer, str(header.get("sha256")), payload)
        return {}, b""

    async def _do_offer_end(self, session: Session, header: Header, payload: bytes) -> Answer:
        verified = await self._desk.end(session.offer)
        return {"digest": verified.digest, "seen": self._executor.changes}, b""

    def _model(self, header: Header) -> str:
        name = str(header.get("model"))
        try:
            return self._executor.state(name).model
        except KeyError:
            here = [state.model for state in self._executor.states()]
            close = get_close_matches(name, here, n=1)
            raise Rejected(
                f"this device runs no model {name!r} (it runs: {', '.join(here)})",
                reason=Reason.WRONG_SLOT,
                next_step=f"Did you mean {close[0]}?" if close else "",
            ) from None

    def _model_or_none(self, header: Header) -> str | None:
        return self._model(header) if header.get("model") is not None else None


def _int(header: Header, key: str, default: int, minimum: int, maximum: int) -> int:
    value = header.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Rejected(f"{key} is not a number", reason=Reason.MALFORMED)
    return max(minimum, min(value, maximum))


def _is_allowed(writer: asyncio.StreamWriter) -> bool:
    """Root, or the user that the runtime runs as."""
    sock: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (0, os.getuid())
