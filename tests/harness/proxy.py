"""A TCP link that can be slow, cut and away: a proxy on loopback between client and server. What is cut is the tests'.

with Link(("127.0.0.1", broker.port)) as link:
    agent's [sync] broker = link.address
    link.cut_after(600_000, times=20)
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

HOST = "127.0.0.1"
PIECE_BYTES = 16 << 10
SLICE_S = 0.01
WAIT_S = 0.05


@dataclass
class _Pair:
    """One connection through the link: the client's end and the server's end."""

    client: socket.socket
    server: socket.socket
    down_bytes: int = 0

    def close(self) -> None:
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                sock.close()


@dataclass
class Link:
    """target: the server's host and port. bytes_per_s: how fast the server's bytes come through, 0 = as they come.

    cuts_unix_ms: when connections were cut, on the clock of the machine.
    """

    target: tuple[str, int]
    bytes_per_s: int = 0
    cuts_unix_ms: list[int] = field(default_factory=list)

    def __enter__(self) -> Link:
        self._listener = socket.create_server((HOST, 0))
        self._listener.setblocking(False)
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._pairs: list[_Pair] = []
        self._away = self._ending = False
        self._cut_after_bytes = self._cuts_left = 0
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._thread.join(10)
        self._listener.close()

    def cut_after(self, down_bytes: int, *, times: int) -> None:
        """Cut the connection whenever so many of the server's bytes have come through it, so many times."""
        self._cut_after_bytes, self._cuts_left = down_bytes, times

    def go_away(self) -> None:
        """Cut what is connected, and everything that connects, until `come_back`."""
        self._away = True

    def come_back(self) -> None:
        """Let connections through again."""
        self._away = False

    @property
    def cuts_left(self) -> int:
        """How many cuts are still to come."""
        return self._cuts_left

    def _run(self) -> None:
        next_piece_s = 0.0
        while not self._ending:  # ends with the `with` block
            if self._away:
                self._cut_all()
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._listener, selectors.EVENT_READ, None)
                slow = time.monotonic() < next_piece_s
                for pair in self._pairs:
                    waiting.register(pair.client, selectors.EVENT_READ, (pair, "up"))
                    if not slow:
                        waiting.register(pair.server, selectors.EVENT_READ, (pair, "down"))
                ready = waiting.select(SLICE_S if slow else WAIT_S)
            for key, _ in ready:
                if key.data is None:
                    self._accept()
                elif key.data[0] in self._pairs:
                    moved = self._move(*key.data)
                    if self.bytes_per_s and key.data[1] == "down":
                        next_piece_s = max(next_piece_s, time.monotonic()) + moved / self.bytes_per_s
        self._cut_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            if self._away:
                client.close()
                return
            try:
                self._pairs.append(_Pair(client, socket.create_connection(self.target, timeout=2.0)))
            except OSError:
                client.close()

    def _move(self, pair: _Pair, direction: str) -> int:
        source, sink = (pair.client, pair.server) if direction == "up" else (pair.server, pair.client)
        try:
            piece = source.recv(PIECE_BYTES)
            sink.sendall(piece)
        except OSError:
            piece = b""
        if not piece:
            self._pairs.remove(pair)
            pair.close()
            return 0
        if direction == "down":
            pair.down_bytes += len(piece)
            if self._cuts_left and pair.down_bytes >= self._cut_after_bytes:
                self._cuts_left -= 1
                self._cut(pair)
        return len(piece)

    def _cut_all(self) -> None:
        for pair in list(self._pairs):
            self._cut(pair)

    def _cut(self, pair: _Pair) -> None:
        self.cuts_unix_ms.append(time.time_ns() // 1_000_000)
        self._pairs.remove(pair)
        pair.close()
