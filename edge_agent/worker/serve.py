"""The worker process: listens, loads one model, computes one request at a time. When it starts and ends is the
runtime's to say.

It outlives its runtime on purpose and goes on serving; without any controller for `orphan_timeout_s` it ends itself.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import socket
import time
from typing import Any, Callable, Dict, List, Optional

from edge_agent.worker import judge, wire
from edge_agent.worker.engines.base import Engine
from edge_agent.worker.model import Loaded, LoadOutcome, compute, load_model, resident_bytes, verdict_fields

CONNECTIONS_MAX = 16  # one runtime, a few fronts, and their successors during a restart
SLOTS_MAX = 64
SLOT_BYTES_MAX = 1 << 32


class Connection:
    """A peer of this process: nameless until its hello, then control or data."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.role = ""
        self.frames = wire.FrameDecoder()
        self.data = wire.DataDecoder()
        self.fds: List[int] = []
        self.arena: Optional[mmap.mmap] = None
        self.slots: List[memoryview] = []
        self.slots_bytes = 0

    def take_fds(self) -> List[int]:
        """Descriptors received so far; the caller owns them."""
        fds, self.fds = self.fds, []
        return fds

    def close(self) -> None:
        """Give everything back."""
        self.sock.close()
        for fd in self.take_fds():
            os.close(fd)
        for slot in self.slots:
            slot.release()
        if self.arena is not None:
            self.arena.close()


class ControlServer:
    """Listens at a path, keeps one controller (the highest generation wins) and ends when orphaned.

    Shared by workers and fork servers; what an op means is the subclass's.
    """

    def __init__(self, path: str, orphan_timeout_s: float) -> None:
        self.selector = selectors.DefaultSelector()
        self.controller: Optional[Connection] = None
        self.generation = -1
        self.running = True
        self._orphan_timeout_s = orphan_timeout_s
        self._orphan_since_s: Optional[float] = time.monotonic()
        self._count = 0
        self._path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a worker that was killed while it loaded, and is made again under its name
        self.listener.bind(path)
        os.chmod(path, 0o600)
        self.listener.listen(CONNECTIONS_MAX)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Serve until asked to end, or orphaned."""
        while self.running:
            for key, _ in self.selector.select(1.0):
                key.data()
            self.each_turn()
            since = self._orphan_since_s
            if since is not None and time.monotonic() - since > self._orphan_timeout_s:
                self.running = False
        if os.path.exists(self._path):
            os.unlink(self._path)

    def each_turn(self) -> None:
        """Called after each batch of events, at least once a second."""

    def _accept(self) -> None:
        sock, _ = self.listener.accept()
        if self._count >= CONNECTIONS_MAX:
            sock.close()
            return
        self._count += 1
        connection = Connection(sock)
        self.selector.register(sock, selectors.EVENT_READ, lambda: self._readable(connection))

    def _readable(self, connection: Connection) -> None:
        try:
            data, fds = wire.receive(connection.sock)
            connection.fds += fds
            if not data or len(connection.fds) > wire.FDS_MAX:
                raise wire.WireError("closed, or descriptors without end")
            if connection.role == "data":
                for frame in connection.data.feed(data):
                    self.on_data(connection, frame)
                return
            for header, _ in connection.frames.feed(data):
                self._on_frame(connection, header)
        except (wire.WireError, OSError):
            self._drop(connection)

    def _on_frame(self, connection: Connection, header: Dict[str, Any]) -> None:
        op = header.get("op")
        if not isinstance(op, str) or not isinstance(header.get("id"), int):
            raise wire.WireError("a request has a name and a number")
        if op == "hello":
            self._hello(connection, header)
        elif connection is not self.controller:
            self.refuse(connection, header, "not_controller", "say hello as control first")
        else:
            self.on_op(connection, op, header)

    def _hello(self, connection: Connection, header: Dict[str, Any]) -> None:
        if header.get("role") == "data":
            self.on_data_hello(connection, header)
            return
        generation = header.get("generation")
        if not isinstance(generation, int) or generation < self.generation:
            self.refuse(connection, header, "old_generation", "a runtime of generation %d was here" % self.generation)
            return
        if self.controller is not None and self.controller is not connection:
            self._drop(self.controller)
        self.controller, self.generation, self._orphan_since_s = connection, generation, None
        connection.role = "control"
        self.answer(connection, header, self.describe())
        self.on_controller()

    def _drop(self, connection: Connection) -> None:
        if connection.sock.fileno() < 0:
            return
        self.selector.unregister(connection.sock)
        connection.close()
        self._count -= 1
        if connection is self.controller:
            self.controller, self._orphan_since_s = None, time.monotonic()

    def answer(self, connection: Connection, header: Dict[str, Any], fields: Dict[str, Any]) -> None:
        """Say yes."""
        wire.send_frame(connection.sock, dict(fields, reply=header.get("id"), ok=True))

    def refuse(self, connection: Connection, header: Dict[str, Any], word: str, text: str) -> None:
        """Say no, with a word for programs and a line for people."""
        wire.send_frame(connection.sock, {"reply": header.get("id"), "ok": False, "reason": word, "message": text})

    def on_controller(self) -> None:
        """A (new) controller has said hello."""

    def on_data_hello(self, connection: Connection, header: Dict[str, Any]) -> None:
        """A front wants to compute here."""
        self.refuse(connection, header, "no_data", "nothing is computed here")

    def on_data(self, connection: Connection, frame: bytes) -> None:
        """One request of a front."""
        raise wire.WireError("no data connection")

    def on_op(self, connection: Connection, op: str, header: Dict[str, Any]) -> None:
        """One request of the controller."""
        raise NotImplementedError  # abstract: the fork server and the worker define their ops

    def describe(self) -> Dict[str, Any]:
        """The answer to hello."""
        raise NotImplementedError


class WorkerServer(ControlServer):
    """One worker: at most one model, loaded once."""

    def __init__(self, path: str, orphan_timeout_s: float, worker_id: str, engine: Engine) -> None:
        super().__init__(path, orphan_timeout_s)
        self._worker_id = worker_id
        self._engine = engine
        self._loaded: Optional[Loaded] = None
        self._requests = 0
        self._non_finite = 0
        self._ops: Dict[str, Callable[[Connection, Dict[str, Any]], None]] = {
            "load": self._load,
            "golden": self._golden,
            "stats": self._stats,
            "exit": self._exit,
        }

    def describe(self) -> Dict[str, Any]:
        """Who this is and what is loaded."""
        return {
            "kind": "worker",
            "worker_id": self._worker_id,
            "pid": os.getpid(),
            "engine": self._engine.name,
            "digest": self._loaded.digest if self._loaded else None,
            "state": "ready" if self._loaded else "empty",
        }

    def on_op(self, connection: Connection, op: str, header: Dict[str, Any]) -> None:
        """load, golden, stats, exit."""
        handler = self._ops.get(op)
        if handler is None:
            self.refuse(connection, header, "unknown_op", "no op %r" % op)
        else:
            handler(connection, header)

    def on_data_hello(self, connection: Connection, header: Dict[str, Any]) -> None:
        """Map the front's arena: slots x slot_bytes of shared memory."""
        fds = connection.take_fds()
        slots, slot_bytes = header.get("slots"), header.get("slot_bytes")
        try:
            if len(fds) != 1 or not isinstance(slots, int) or not isinstance(slot_bytes, int):
                raise ValueError("one descriptor, slots and slot_bytes are wanted")
            if not (0 < slots <= SLOTS_MAX and 0 < slot_bytes <= SLOT_BYTES_MAX):
                raise ValueError("%d slots of %d bytes" % (slots, slot_bytes))
            if os.fstat(fds[0]).st_size < slots * slot_bytes + wire.BEGUN_BYTES:
                raise ValueError("the arena is smaller than its slots")
            arena = mmap.mmap(fds[0], slots * slot_bytes + wire.BEGUN_BYTES)
        except (ValueError, OSError) as error:
            self.refuse(connection, header, "malformed", str(error))
            return
        finally:
            for fd in fds:
                os.close(fd)
        whole = memoryview(arena)
        connection.arena = arena
        connection.slots_bytes = slots * slot_bytes
        connection.slots = [whole[n * slot_bytes : (n + 1) * slot_bytes] for n in range(slots)] + [whole]
        connection.role = "data"
        self.answer(connection, header, self.describe())

    def on_data(self, connection: Connection, frame: bytes) -> None:
        """Compute one request and answer it."""
        request = wire.decode_request(frame)
        if request.slot >= len(connection.slots) - 1:
            raise wire.WireError("slot %d" % request.slot)
        wire.write_begun(connection.arena, connection.slots_bytes, request.request_id)
        reply, finite = compute(self._engine, self._loaded, request, connection.slots[request.slot])
        self._requests += 1
        self._non_finite += 0 if finite else 1
        connection.sock.sendall(wire.encode_reply(reply))

    def _load(self, connection: Connection, header: Dict[str, Any]) -> None:
        fds = connection.take_fds()
        try:
            if self._loaded is not None:
                self.refuse(connection, header, "malformed", "this worker has a model already")
                return
            loaded, fields = load_model(self._engine, header, fds)
        except LoadOutcome as outcome:
            self.refuse(connection, header, outcome.word, outcome.detail)
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._loaded = loaded
        self.answer(connection, header, fields)

    def _golden(self, connection: Connection, header: Dict[str, Any]) -> None:
        """All golden vectors, or the one that is named: then live requests wait for no more than that."""
        if self._loaded is None:
            self.refuse(connection, header, "not_loaded", "no model is loaded")
            return
        loaded, vector = self._loaded, header.get("vector")
        if vector is not None and not (isinstance(vector, int) and 0 <= vector < loaded.golden.vectors):
            self.refuse(connection, header, "malformed", "there is no golden vector %r" % (vector,))
            return
        began_s = time.monotonic()
        try:
            verdict = judge.prove(self._engine.run, loaded.golden, loaded.rtol, loaded.atol, vector)
        except Exception as error:  # an engine may raise anything; that it did not at the proof is what counts here
            verdict = judge.Verdict(False, 0, 0.0, 0.0, "proof", "%s: %s" % (type(error).__name__, str(error)[:500]))
        elapsed_us = int((time.monotonic() - began_s) * 1e6)
        self.answer(connection, header, {"proof": verdict_fields(verdict), "elapsed_us": elapsed_us})

    def _stats(self, connection: Connection, header: Dict[str, Any]) -> None:
        fields = {
            "requests": self._requests,
            "non_finite": self._non_finite,
            "resident_bytes": resident_bytes(),
        }
        self.answer(connection, header, fields)

    def _exit(self, connection: Connection, header: Dict[str, Any]) -> None:
        self.answer(connection, header, {})
        self.running = False
