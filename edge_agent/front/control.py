"""The front's control socket: the runtime says where requests go, the front says what became of workers.

HTTP is elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import structlog

from edge_agent.contract.errors import HoldfastError
from edge_agent.front.dispatch import Dispatcher
from edge_agent.front.metrics import FrontMetrics
from edge_agent.front.routes import parse_routes
from edge_agent.worker import wire

log = structlog.get_logger()

Header = dict[str, Any]


class ControlServer:
    """One controller at a time: the runtime with the highest generation."""

    def __init__(self, listener: socket.socket, metrics: FrontMetrics, orphan_timeout_s: float) -> None:
        self.dispatcher: Dispatcher | None = None
        self.stopping = asyncio.Event()
        self.routed = asyncio.Event()  # it is known which models there are; set by a stop as well
        self._listener = listener
        self._metrics = metrics
        self._orphan_timeout_s = orphan_timeout_s
        self._orphan_since_s: float | None = time.monotonic()
        self._generation = -1
        self._server: asyncio.Server | None = None
        self._controller: asyncio.StreamWriter | None = None
        self._peers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._in_order = asyncio.Lock()

    async def start(self, path: Path) -> None:
        """Listen for the runtime."""
        self._server = await asyncio.start_unix_server(self._serve, path)  # kept: uvloop closes one that nobody holds
        path.chmod(0o600)

    def stop(self) -> None:
        """End the front gracefully."""
        self.stopping.set()
        self.routed.set()

    async def end(self, timeout_s: float) -> None:
        """Stop listening, and end the connections that there are, so that nothing is cancelled in the middle."""
        if self._server is not None:
            self._server.close()
        for writer in self._peers:
            writer.close()
        if self._peers:
            await asyncio.wait(self._peers.values(), timeout=timeout_s)

    def tell(self, event: Header) -> bool:
        """A fact for the runtime; False without one: it is lost, or waits, as the caller wants."""
        if self._controller is None:
            return False
        self._controller.write(wire.encode_frame(event))
        return True

    async def end_when_orphaned(self) -> None:
        """Stop once there has been no runtime for too long."""
        while not self.stopping.is_set():
            await asyncio.sleep(0.5)
            since = self._orphan_since_s
            if since is not None and time.monotonic() - since > self._orphan_timeout_s:
                log.warning("front_orphaned", orphan_timeout_s=self._orphan_timeout_s)
                self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = wire.FrameDecoder()
        serving = asyncio.current_task()
        if serving is not None:
            self._peers[writer] = serving
        try:
            while data := await reader.read(1 << 18):
                for header, _ in decoder.feed(data):
                    self._handle(writer, header)
        except (OSError, wire.WireError) as error:
            log.info("control_connection_ended", detail=str(error))
        finally:
            self._peers.pop(writer, None)
            if self._controller is writer:
                self._controller, self._orphan_since_s = None, time.monotonic()
            writer.close()

    def _handle(self, writer: asyncio.StreamWriter, header: Header) -> None:
        """Everything is answered at once but `routes`, which may wait for busy workers: a ping does not wait for it."""
        op = str(header.get("op"))
        if op == "hello":
            _answer(writer, header, self._hello(writer, header))
        elif writer is not self._controller:
            _answer(writer, header, _no("not_controller", "say hello first"))
        elif op == "ping":
            _answer(writer, header, {"ok": True})
        elif op == "listener":
            self._hand_over_listener(writer, header)
        elif op == "routes":
            self._follow(writer, header)
        elif op == "exit":
            self.stop()
            _answer(writer, header, {"ok": True})
        else:
            _answer(writer, header, _no("unknown_op", f"no op {op!r}"))

    def _hello(self, writer: asyncio.StreamWriter, header: Header) -> Header:
        generation = header.get("generation")
        if not isinstance(generation, int) or generation < self._generation:
            return _no("old_generation", f"a runtime of generation {self._generation} was here")
        if self._controller is not None and self._controller is not writer:
            self._controller.close()
        self._controller, self._generation, self._orphan_since_s = writer, generation, None
        return {"ok": True, "kind": "front", "pid": os.getpid()}

    def _hand_over_listener(self, writer: asyncio.StreamWriter, header: Header) -> None:
        """A new runtime needs the listening socket to start the next front on the same port."""
        ours = writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(ours.fileno())) as twin:
            wire.send_frame(twin, {"ok": True, "reply": header.get("id")}, fds=[self._listener.fileno()])

    def _follow(self, writer: asyncio.StreamWriter, header: Header) -> None:
        """Answer once requests go where the routes say, one after the other. The runtime sends the next ones only after
        an answer or its time-out, so that few are under way.
        """
        following = asyncio.create_task(self._routes(writer, header))
        self._following.add(following)

        def followed(task: asyncio.Task[None]) -> None:
            self._following.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("routes_not_followed", exc_info=error)
                writer.close()  # the runtime starts another front

        following.add_done_callback(followed)

    async def _routes(self, writer: asyncio.StreamWriter, header: Header) -> None:
        assert self.dispatcher is not None
        try:
            routes = parse_routes({key: header[key] for key in ("sequence", "models", "gauges") if key in header})
        except HoldfastError as error:
            _answer(writer, header, _no("malformed", error.message))
            return
        self.routed.set()
        async with self._in_order:
            await self.dispatcher.set_routes(routes)
        serving = {m: (r.version, r.digest) for m, r in routes.models.items() if r.digest is not None and r.workers}
        self._metrics.note_routes(serving, routes.gauges)
        _answer(writer, header, {"ok": True, "sequence": routes.sequence})


def _answer(writer: asyncio.StreamWriter, header: Header, answer: Header) -> None:
    if not writer.is_closing():
        writer.write(wire.encode_frame({**answer, "reply": header.get("id")}))


def _no(word: str, text: str) -> Header:
    return {"ok": False, "reason": word, "message": text}
