"""A control connection over a unix socket: framed requests, replies, events and file descriptors. What is said is not
known here.

The framing itself is `worker.wire`, which the other side shares.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.runtime.process import ProcessHandle
from edge_agent.worker import wire

Header = dict[str, Any]
EventHandler = Callable[[Header], None]

READ_BYTES = 256 * 1024
FDS_HELD_MAX = 16  # that a peer has sent and nobody has taken (the front hands back one listener); more end it
CONNECT_PAUSE_S = 0.005  # a listening socket has no readiness event to wait for


class PeerRefused(HoldfastError):
    """The other side answered a request with ok = false: `word` is its reason, `text` its message."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word
        self.text = text


class Channel:
    """One control connection to a child. Requests time out; a broken connection fails everything that waits."""

    def __init__(self, sock: socket.socket, on_event: EventHandler, on_closed: Callable[[], None]) -> None:
        self._sock = sock
        self._on_event = on_event
        self._on_closed = on_closed
        self._decoder = wire.FrameDecoder()
        self._waiting: dict[int, asyncio.Future[tuple[Header, bytes]]] = {}
        self._numbers = itertools.count(1)
        self._send_lock = asyncio.Lock()
        self._fds: list[int] = []
        self.closed = False
        asyncio.get_running_loop().add_reader(sock.fileno(), self._on_readable)

    @property
    def peer_pid(self) -> int:
        """Process id of the other side, told by the kernel (SO_PEERCRED)."""
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return array.array("i", raw)[0]

    async def request(
        self, op: str, *, timeout_s: float, fds: Sequence[int] = (), payload: bytes = b"", **fields: Any
    ) -> tuple[Header, bytes]:
        """Send one request and wait for its reply.

        Raises PeerRefused (the other side said no), Unavailable (gone, or no answer within timeout_s).
        """
        number = next(self._numbers)
        future: asyncio.Future[tuple[Header, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(timeout_s):
                await self._send({"op": op, "id": number, **fields}, payload, fds)
                header, reply_payload = await future
        except TimeoutError:
            raise Unavailable(f"no answer to {op!r} within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(number, None)
        if not header.get("ok"):
            raise PeerRefused(str(header.get("reason", "?")), str(header.get("message", "")))
        return header, reply_payload

    def take_fds(self) -> list[int]:
        """File descriptors received so far; the caller owns them from now on."""
        fds, self._fds = self._fds, []
        return fds

    def close(self) -> None:
        """End the connection; every waiting request fails with Unavailable."""
        if self.closed:
            return
        self.closed = True
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        for fd in self.take_fds():
            os.close(fd)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the process at the other end is gone"))
        self._on_closed()

    async def _send(self, header: Header, payload: bytes, fds: Sequence[int]) -> None:
        if self.closed:
            raise Unavailable("the process at the other end is gone")
        data = wire.encode_frame({**header, "fds": len(fds)} if fds else header, payload)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        loop = asyncio.get_running_loop()
        try:
            async with self._send_lock:
                sent = await self._send_first(data, ancillary)
                if sent < len(data):
                    await loop.sock_sendall(self._sock, data[sent:])
        except OSError as error:
            self.close()
            raise Unavailable("the process at the other end is gone") from error

    async def _send_first(self, data: bytes, ancillary: list[Any]) -> int:
        """The part that carries the descriptors; retried until the socket takes at least one byte."""
        while True:  # bounded by the request's time-out
            try:
                return self._sock.sendmsg([data], ancillary)
            except BlockingIOError:
                await _until_writable(self._sock)

    def _on_readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                READ_BYTES,
                socket.CMSG_SPACE(FDS_HELD_MAX * array.array("i").itemsize),
                socket.MSG_CMSG_CLOEXEC,
            )
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._fds.extend(received)
        if not data or len(self._fds) > FDS_HELD_MAX or flags & socket.MSG_CTRUNC:
            self.close()
            return
        try:
            for header, payload in self._decoder.feed(data):
                self._dispatch(header, payload)
        except wire.WireError:
            self.close()

    def _dispatch(self, header: Header, payload: bytes) -> None:
        if "event" in header:
            self._on_event(header)
            return
        number = header.get("reply")
        future = self._waiting.get(number) if isinstance(number, int) else None
        if future is not None and not future.done():
            future.set_result((header, payload))


async def _until_writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(sock.fileno(), writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(sock.fileno())


async def connect(path: Path, on_event: EventHandler, on_closed: Callable[[], None], *, timeout_s: float) -> Channel:
    """Connect to a listening child. Raises Unavailable when nobody listens there within timeout_s."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, str(path))
    except (OSError, TimeoutError) as error:
        sock.close()
        raise Unavailable(f"nobody listens at {path.name}: {error}") from error
    return Channel(sock, on_event, on_closed)


async def connect_when_up(
    path: Path,
    process: ProcessHandle,
    on_event: Callable[[Header], None],
    on_closed: Callable[[Channel], None],
    *,
    timeout_s: float,
) -> Channel:
    """Connect to a child that has just been started, as soon as it listens. Raises Unavailable."""
    channel: list[Channel] = []

    def closed() -> None:
        if channel:
            on_closed(channel[0])

    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:  # bounded by timeout_s and by the child's life
        try:
            channel.append(await connect(path, on_event, closed, timeout_s=1.0))
            return channel[0]
        except Unavailable:
            if process.exited.is_set():
                raise Unavailable(f"the process for {path.name} ended while it started") from None
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(CONNECT_PAUSE_S)
