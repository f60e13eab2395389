"""The queue of requests for parts: a few are answered at once, each device has its share, one too many is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any

from cloud_sync import limits
from cloud_sync.coordinator.handout import Handout
from cloud_sync.coordinator.memory import Memory
from cloud_sync.coordinator.metrics import Metrics
from cloud_sync.mqtt.parts import Answer, Parts
from cloud_sync.publish.repository import Repository
from cloud_sync.repository.shelf import Shelf
from cloud_sync.signing import Signer
from cloud_sync.store.database import Database
from edge_agent.contract.canonical import encode
from edge_agent.contract.transfer import Get, Kind

TIMESTAMP = encode(Get(Kind.METADATA, "timestamp.json", 0, 10))


class Link:
    """Where answers go out: slowly, until it is opened. sent: device and status of each, in order."""

    def __init__(self, works: bool = True) -> None:
        self.open = asyncio.Event()
        self.under_way = self.most = 0
        self.sent: list[tuple[str, str]] = []
        self._works = works

    async def send(self, device_id: str, answer: Answer) -> bool:
        """Takes as long as the link is closed."""
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.open.wait()
        self.under_way -= 1
        self.sent.append((device_id, dict(answer.words)["status"]))
        return self._works


def tell(folder: Path, story: Callable[[Parts, Memory], Coroutine[Any, Any, None]]) -> None:
    """Run a story with a queue over a repository that has a timestamp.json and nothing else."""
    (folder / "metadata").mkdir()
    (folder / "metadata" / "timestamp.json").write_bytes(b"0123456789")

    async def run() -> None:
        database = Database(folder / "a.db")
        memory = Memory(database, Signer.generate())
        parts = Parts(Handout(memory, Shelf(Repository(folder)), Metrics()))
        work = asyncio.create_task(parts.run())
        try:
            async with asyncio.timeout(30):
                await story(parts, memory)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await database.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Let others go on until it holds."""
    for _ in count():  # ends with the story's time-out
        if condition():
            return
        await asyncio.sleep(0)


def test_only_a_few_parts_are_under_way_at_once(tmp_path: Path) -> None:
    async def story(parts: Parts, memory: Memory) -> None:
        link = Link()
        for number in range(3 * limits.GETS_AT_ONCE):
            parts.ask(f"d{number}", TIMESTAMP, None, link.send)
        await until(lambda: link.under_way == limits.GETS_AT_ONCE)
        link.open.set()
        await until(lambda: len(link.sent) == 3 * limits.GETS_AT_ONCE)
        assert link.most == limits.GETS_AT_ONCE
        assert len(memory.parts) == 3 * limits.GETS_AT_ONCE

    tell(tmp_path, story)


def test_one_device_cannot_fill_the_queue_and_what_was_dropped_is_not_answered(tmp_path: Path) -> None:
    async def story(parts: Parts, memory: Memory) -> None:
        link = Link()
        for _ in range(5 * limits.GETS_WAITING_PER_DEVICE_MAX):
            parts.ask("greedy", TIMESTAMP, None, link.send)
        parts.ask("modest", TIMESTAMP, None, link.send)
        link.open.set()
        await until(lambda: len(link.sent) == limits.GETS_WAITING_PER_DEVICE_MAX + 1)
        assert ("modest", "200") in link.sent
        parts.ask("greedy", TIMESTAMP, None, link.send)
        await until(lambda: len(link.sent) == limits.GETS_WAITING_PER_DEVICE_MAX + 2)

    tell(tmp_path, story)


def test_a_part_that_did_not_go_out_is_not_in_the_log(tmp_path: Path) -> None:
    async def story(parts: Parts, memory: Memory) -> None:
        dead, alive = Link(works=False), Link()
        dead.open.set()
        alive.open.set()
        parts.ask("d1", TIMESTAMP, None, dead.send)
        parts.ask("d2", TIMESTAMP, None, alive.send)
        await until(lambda: bool(dead.sent and alive.sent and memory.parts))
        assert [part.device_id for part in memory.parts] == ["d2"]

    tell(tmp_path, story)
