"""A TCP link that can be slow, cut and away: a proxy on loopback between client and server. What is cut is the tests'.

with Link(("127.0.0.1", broker.port)) as link:
    agent's [sync] broker = link.address
    link.cut_after(600_000, times=20)
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from types import TracebackType

HOST = "127.0.0.1"
PIECE_BYTES = 64 << 10
SLOW_PIECE_BYTES = 4 << 10  # on a slow link, so that its rate is even


@dataclass
class _Pair:
    """One connection through the link: the client's end and the server's end."""

    client: socket.socket
    server: socket.socket
    down_bytes: int = 0

    def end(self) -> None:
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Link:
    """target: the server's host and port. bytes_per_s: how fast the server's bytes come through, 0 = as they come.

    cuts_unix_ms: when connections were cut, on the clock of the machine. cuts_left: how many are still to come.
    """

    def __init__(self, target: tuple[str, int], bytes_per_s: int = 0) -> None:
        self.bytes_per_s = bytes_per_s
        self.cuts_unix_ms: list[int] = []
        self.cuts_left = 0
        self._cut_after_bytes = 0
        self._target = target
        self._pairs: list[_Pair] = []
        self._never = threading.Event()
        self._port = 0
        self.come_back()
        self.address = f"{HOST}:{self._port}"

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_away()

    def cut(self) -> None:
        """End what is connected, without a goodbye."""
        for pair in list(self._pairs):
            self._cut(pair)

    def cut_after(self, down_bytes: int, *, times: int) -> None:
        """Cut the connection whenever so many of the server's bytes have come through it, so many times."""
        self._cut_after_bytes, self.cuts_left = down_bytes, times

    def go_away(self) -> None:
        """No link any more: what is connected is cut, and who connects is refused, until `come_back`."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def come_back(self) -> None:
        """Let connections through, at the same address as before."""
        self._listener = socket.create_server((HOST, self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), name="link", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:  # until the listener is closed
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                pair = _Pair(client, server)
                self._pairs.append(pair)
                for pump in (self._up, self._down):
                    threading.Thread(target=pump, args=(pair,), name="link-pump", daemon=True).start()

    def _up(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while piece := pair.client.recv(PIECE_BYTES):
                pair.server.sendall(piece)
        self._forget(pair)

    def _down(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while piece := pair.server.recv(SLOW_PIECE_BYTES if self.bytes_per_s else PIECE_BYTES):
                if self.bytes_per_s:
                    self._never.wait(len(piece) / self.bytes_per_s)  # never set: this is the link's rate
                pair.client.sendall(piece)
                pair.down_bytes += len(piece)
                if self.cuts_left and pair.down_bytes >= self._cut_after_bytes:
                    self.cuts_left -= 1
                    self._cut(pair)
        self._forget(pair)

    def _cut(self, pair: _Pair) -> None:
        self.cuts_unix_ms.append(time.time_ns() // 1_000_000)
        self._forget(pair)

    def _forget(self, pair: _Pair) -> None:
        with contextlib.suppress(ValueError):  # the other direction was first
            self._pairs.remove(pair)
        pair.end()
