"""The runtime's end of a control connection; its peer is late, wrong, slow or gone. What is said does not matter."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.errors import Unavailable
from edge_agent.runtime.channel import FDS_HELD_MAX, Channel, PeerRefused, connect
from edge_agent.worker import wire
from tests.worker.stand import WAIT_S, sealed


class Peer:
    """The other end: a plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = wire.FrameDecoder()
        self._frames: list[tuple[dict[str, Any], bytes]] = []

    async def next(self) -> tuple[dict[str, Any], bytes]:
        """The next request."""
        while not self._frames:  # ends with the test's time-out
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            assert data, "the channel hung up"
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def say(self, **header: Any) -> None:
        """Send one frame."""
        await asyncio.get_running_loop().sock_sendall(self.sock, wire.encode_frame(header))


class Ends:
    """A channel, its peer, and what the channel told."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        self.events: list[dict[str, Any]] = []
        self.closings = 0
        self.peer = Peer(theirs)
        self.told = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.channel = Channel(ours, self._on_event, self._on_closed)

    def _on_event(self, header: dict[str, Any]) -> None:
        self.events.append(header)
        self.told.set()

    def _on_closed(self) -> None:
        self.closings += 1
        self.hung_up.set()


@asynccontextmanager
async def connected() -> AsyncIterator[Ends]:
    """Both ends, closed afterwards; nothing takes longer than WAIT_S."""
    ends = Ends()
    try:
        async with asyncio.timeout(WAIT_S):
            yield ends
    finally:
        ends.channel.close()
        ends.peer.sock.close()


def with_ends(scenario: Callable[[Ends], Awaitable[None]]) -> None:
    """Play this."""

    async def play() -> None:
        async with connected() as ends:
            await scenario(ends)

    asyncio.run(play())


def test_replies_find_their_requests_in_any_order_with_events_between() -> None:
    async def scenario(ends: Ends) -> None:
        asked = [asyncio.create_task(ends.channel.request("square", timeout_s=WAIT_S, x=x)) for x in range(5)]
        requests = [(await ends.peer.next())[0] for _ in asked]
        for request in reversed(requests):
            await ends.peer.say(event="noise", about=request["x"])
            await ends.peer.say(reply=request["id"], ok=True, y=request["x"] ** 2)
        assert [(await task)[0]["y"] for task in asked] == [0, 1, 4, 9, 16]
        assert [event["about"] for event in ends.events] == [4, 3, 2, 1, 0]

    with_ends(scenario)


def test_a_refusal_has_its_word_and_text() -> None:
    async def scenario(ends: Ends) -> None:
        asked = asyncio.create_task(ends.channel.request("load", timeout_s=WAIT_S))
        request, _ = await ends.peer.next()
        await ends.peer.say(reply=request["id"], ok=False, reason="proof", message="off by one")
        with pytest.raises(PeerRefused) as refused:
            await asked
        assert (refused.value.word, refused.value.text) == ("proof", "off by one")

    with_ends(scenario)


def test_a_late_reply_is_nobodys_and_the_channel_goes_on() -> None:
    async def scenario(ends: Ends) -> None:
        with pytest.raises(Unavailable, match="no answer to 'slow'"):
            await ends.channel.request("slow", timeout_s=0.01)
        late, _ = await ends.peer.next()
        await ends.peer.say(reply=late["id"], ok=True)
        await ends.peer.say(reply=12345, ok=True)
        asked = asyncio.create_task(ends.channel.request("quick", timeout_s=WAIT_S))
        request, _ = await ends.peer.next()
        await ends.peer.say(reply=request["id"], ok=True, found="it")
        assert (await asked)[0]["found"] == "it"
        assert not ends.channel.closed

    with_ends(scenario)


@pytest.mark.parametrize(
    "data", [b"\xff" * 8, b"\0\0\0\x02\0\0\0\0[]", b"\0\0\0\x01\0\0\0\0{", b""], ids=["too long", "list", "cut", "end"]
)
def test_nonsense_or_the_end_fails_everything_that_waits(data: bytes) -> None:
    async def scenario(ends: Ends) -> None:
        asked = [asyncio.create_task(ends.channel.request("load", timeout_s=WAIT_S)) for _ in range(3)]
        for _ in asked:
            await ends.peer.next()
        if data:
            ends.peer.sock.send(data)
        else:
            ends.peer.sock.close()
        for task in asked:
            with pytest.raises(Unavailable, match="gone"):
                await task
        assert ends.channel.closed
        with pytest.raises(Unavailable, match="gone"):
            await ends.channel.request("load", timeout_s=WAIT_S)
        ends.channel.close()
        assert ends.closings == 1

    with_ends(scenario)


@pytest.mark.parametrize("reply", [None, "1", [1], {"a": 1}, 1.5, 99])
def test_a_reply_to_nothing_is_dropped(reply: object) -> None:
    async def scenario(ends: Ends) -> None:
        asked = asyncio.create_task(ends.channel.request("stats", timeout_s=WAIT_S))
        request, _ = await ends.peer.next()
        await ends.peer.say(reply=reply, ok=True, found="wrong")
        await ends.peer.say(reply=request["id"], ok=True, found="right")
        with_reply, _ = await asked
        assert with_reply["found"] == "right"

    with_ends(scenario)


def test_a_large_request_arrives_whole_with_its_descriptors_at_a_peer_that_reads_slowly() -> None:
    async def scenario(ends: Ends) -> None:
        payload = os.urandom(wire.PAYLOAD_BYTES_MAX)
        fds = [sealed(b"one"), sealed(b"two")]
        asked = [
            asyncio.create_task(ends.channel.request("load", timeout_s=WAIT_S, fds=fds, payload=payload)),
            asyncio.create_task(ends.channel.request("stats", timeout_s=WAIT_S)),
        ]
        await asyncio.sleep(0)  # both have begun to send; the socket's buffer is full
        decoder, frames, received = wire.FrameDecoder(), [], []
        while len(frames) < 2:  # ends with the test's time-out
            try:
                data, new = wire.receive(ends.peer.sock, 10_000)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            received += new
            frames += decoder.feed(data)
        (first, first_payload), (second, _) = frames
        assert (first["op"], first["fds"], second["op"]) == ("load", 2, "stats")
        assert first_payload == payload
        assert [os.pread(fd, 10, 0) for fd in received] == [b"one", b"two"]
        for header, _ in frames:
            await ends.peer.say(reply=header["id"], ok=True)
        await asyncio.gather(*asked)
        for fd in (*fds, *received):
            os.close(fd)

    with_ends(scenario)


def test_descriptors_from_the_other_side_are_handed_over_once_or_closed() -> None:
    async def scenario(ends: Ends) -> None:
        fd = sealed(b"listener")
        for _ in range(2):
            wire.send_frame(ends.peer.sock, {"event": "here"}, fds=[fd])
            await ends.told.wait()
            ends.told.clear()
        taken = ends.channel.take_fds()
        assert [os.pread(taken[n], 10, 0) for n in range(2)] == [b"listener"] * 2
        assert ends.channel.take_fds() == []
        for each in (fd, *taken):
            os.close(each)

    with_ends(scenario)


@pytest.mark.parametrize("messages", [[FDS_HELD_MAX + 1], [1] * (FDS_HELD_MAX + 1)], ids=["at once", "one by one"])
def test_descriptors_that_nobody_asked_for_end_the_connection_and_are_closed(messages: list[int]) -> None:
    async def scenario(ends: Ends) -> None:
        reading, writing = os.pipe()
        for count in messages:
            with contextlib.suppress(OSError):  # it may have hung up by then
                wire.send_frame(ends.peer.sock, {"event": "here"}, fds=[writing] * count)
            await asyncio.sleep(0)
        os.close(writing)
        await ends.hung_up.wait()
        assert os.read(reading, 1) == b"", "no copy of it is left open anywhere"
        os.close(reading)

    with_ends(scenario)


def test_nobody_listens(tmp_path: Path) -> None:
    async def attempt() -> None:
        await connect(tmp_path / "none.sock", lambda _h: None, lambda: None, timeout_s=WAIT_S)

    with pytest.raises(Unavailable, match=r"nobody listens at none\.sock"):
        asyncio.run(attempt())


def test_a_request_that_is_too_large_is_our_own_mistake_and_breaks_nothing() -> None:
    async def scenario(ends: Ends) -> None:
        with pytest.raises(wire.WireError):
            await ends.channel.request("load", timeout_s=WAIT_S, payload=bytes(wire.PAYLOAD_BYTES_MAX + 1))
        assert not ends.channel.closed

    with_ends(scenario)
