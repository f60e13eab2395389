"""Servers that are no coordinator: each answers one thing, on a real socket. What `fleet` says of it is the tests'."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Stranger:
    """Listens on a free port of loopback and answers every request with the same bytes; use with `with`.

    body and status make an HTTP answer; raw is sent as it is, over and over where `endless`. silent: takes requests
    and never answers.
    """

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: str = "200 OK",
        headers: tuple[str, ...] = (),
        raw: bytes | None = None,
        endless: bytes = b"",
        silent: bool = False,
    ) -> None:
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
        head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        self._answer = head + body if raw is None else raw
        self._endless, self._silent = endless, silent
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self.requests: list[bytes] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            with contextlib.suppress(OSError):  # whoever asked has had enough
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        self.requests.append(connection.recv(65536))
        if self._silent:
            return
        connection.sendall(self._answer)
        while self._endless and not self._over.is_set():
            connection.sendall(self._endless)
        connection.shutdown(socket.SHUT_WR)
