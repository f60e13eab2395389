"""Which way is taken when: HTTP first, a pause after it failed, one failure for all that were under way."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from edge_agent.contract.transfer import Kind
from edge_agent.sync import ways
from edge_agent.sync.http_source import HttpFails
from edge_agent.sync.line import LineCut
from edge_agent.sync.requests import NotServed, Part
from edge_agent.sync.ways import Ways

SIZE = 1000


class Scripted:
    """A source that answers with bytes of its letter, or with the error that it is given. bytes_max: of a part."""

    def __init__(self, letter: bytes, bytes_max: int) -> None:
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[int, int]] = []
        self._letter, self._bytes_max = letter, bytes_max

    def part_bytes(self) -> int:
        """Always the same."""
        return self._bytes_max

    async def part(self, kind: Kind, name: str, offset: int, length: int) -> Part:
        """Once the gate is open."""
        assert length <= self._bytes_max
        self.asked.append((offset, length))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Part(self._letter * length, SIZE)


class Scene:
    """Two sources and the ways over them."""

    def __init__(self) -> None:
        self.http, self.mqtt = Scripted(b"h", 500), Scripted(b"m", 100)
        self.ways = Ways(self.http, self.mqtt)

    async def ask(self, offset: int = 0, length: int = 500) -> Part:
        """One part."""
        return await self.ways.part(Kind.CHUNK, "c" * 64, offset, length)


def test_after_a_failure_mqtt_is_asked_in_its_own_size_until_the_pause_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "HTTP_AGAIN_BASE_S", 0.2)

    async def story() -> None:
        scene = Scene()
        assert scene.ways.part_bytes() == 500
        scene.http.error = HttpFails("gone")
        assert await scene.ask() == Part(b"m" * 100, SIZE)
        assert scene.ways.part_bytes() == 100
        assert await scene.ask(100, 100) == Part(b"m" * 100, SIZE)
        assert len(scene.http.asked) == 1
        scene.http.error = None
        scene.ways.open.clear()
        await asyncio.wait_for(scene.ways.open.wait(), 5)  # set again when the pause is over, whatever else happens
        assert await scene.ask() == Part(b"h" * 500, SIZE)

    asyncio.run(story())


def test_it_is_open_while_either_way_may_have_an_answer() -> None:
    async def story() -> None:
        scene = Scene()
        assert scene.ways.open.is_set(), "HTTP may work"
        scene.http.error, scene.mqtt.error = HttpFails("gone"), LineCut("away")
        with pytest.raises(LineCut):
            await scene.ask()
        assert not scene.ways.open.is_set()
        scene.ways.note_line(True)
        assert scene.ways.open.is_set()
        scene.ways.note_line(False)
        assert not scene.ways.open.is_set()
        alone = Ways(None, scene.mqtt)
        assert not alone.open.is_set() and alone.part_bytes() == 100

    asyncio.run(story())


def test_several_that_fail_together_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        scene = Scene()
        scene.http.error = HttpFails("gone")
        scene.http.gate.clear()
        asking = [asyncio.create_task(scene.ask(at, 10)) for at in range(3)]
        await asyncio.wait(asking, timeout=0)  # each has asked
        assert len(scene.http.asked) == 3
        scene.http.gate.set()
        await asyncio.gather(*asking)

    with capture_logs() as said:
        asyncio.run(story())
    assert [line["event"] for line in said] == ["http_fails"]


def test_an_answer_of_no_is_an_answer_and_not_asked_for_elsewhere() -> None:
    async def story() -> None:
        scene = Scene()
        for status in (400, 403, 404, 416):
            scene.http.error = NotServed(status, "it")
            with pytest.raises(NotServed):
                await scene.ask()
        assert not scene.mqtt.asked
        assert len(scene.http.asked) == 4

    asyncio.run(story())
