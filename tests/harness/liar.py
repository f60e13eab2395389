"""A broker that lies: it accepts everybody, acknowledges everything, and then says what the test wants. Raw MQTT 5."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType

HOST = "127.0.0.1"
CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8


def packet(first: int, body: bytes) -> bytes:
    """Bytes on the wire; first: type and flags. For bodies below 128 bytes."""
    return bytes([first, len(body)]) + body


GRANTED, NOT_AUTHORIZED = b"\x01", b"\x87"
DISCONNECT = packet(0xE0, b"\x8e")  # the session was taken over
TOPIC_THAT_IS_NO_TEXT = packet(0x30, struct.pack(">H", 2) + b"\xff\xfe" + b"\0" + b"x")


class Liar:
    """Use with `with`. granted: the reason code of a subscription. then: bytes that follow on it."""

    def __init__(self, *, granted: bytes = GRANTED, then: bytes = b"") -> None:
        self.connected = 0
        self.ended = 0
        self._granted = granted
        self._then = then
        self._listener = socket.create_server((HOST, 0))
        self._ends: list[socket.socket] = []

    @property
    def address(self) -> str:
        """host:port."""
        return f"{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Liar:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:  # until the listener is closed
                end, _ = self._listener.accept()
                self._ends.append(end)
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), end.makefile("rb") as stream:
            while True:  # until the other side hangs up
                self._answer(end, *_next_packet(stream.read))
        self.ended += 1

    def _answer(self, end: socket.socket, first: int, body: bytes) -> None:
        if first >> 4 == CONNECT:
            self.connected += 1
            end.sendall(packet(0x20, b"\0\0\0"))
        elif first >> 4 == SUBSCRIBE:
            end.sendall(packet(0x90, body[:2] + b"\0" + self._granted) + self._then)
        elif first >> 4 == PUBLISH and first & 0x06:
            after_topic = 2 + struct.unpack(">H", body[:2])[0]
            end.sendall(packet(0x40, body[after_topic : after_topic + 2] + b"\0\0"))


def _next_packet(read: object) -> tuple[int, bytes]:
    assert callable(read)
    first, length, shift = read(1), 0, 0
    while True:  # four bytes at most
        more = read(1)
        if not first or not more:
            raise EOFError
        length |= (more[0] & 0x7F) << shift
        shift += 7
        if not more[0] & 0x80:
            return first[0], read(length)
