"""Answering requests for parts, a few at a time and beside everything else: an assignment never waits behind them.

Who may have what is `coordinator.handout`'s matter.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from cloud_sync import limits
from cloud_sync.coordinator.handout import Handout
from cloud_sync.repository.shelf import Part
from edge_agent.contract.errors import Rejected
from edge_agent.contract.transfer import STATUS, TOTAL_BYTES, Get, Status, parse_get

log = structlog.get_logger()

WAY = "mqtt"


@dataclass(frozen=True, slots=True)
class Answer:
    """words: the user properties."""

    content: bytes
    words: tuple[tuple[str, str], ...]
    correlation: bytes | None


Send = Callable[[str, Answer], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request in the queue; get: None when it was malformed."""

    device_id: str
    get: Get | None
    correlation: bytes | None
    send: Send


class Parts:
    """A bounded queue of requests, and the tasks that answer them. `run` it as a task."""

    def __init__(self, handout: Handout) -> None:
        self._handout = handout
        self._waiting: deque[_Asked] = deque()
        self._of_device: Counter[str] = Counter()
        self._asked = asyncio.Semaphore(0)

    def ask(self, device_id: str, raw: bytes, correlation: bytes | None, send: Send) -> None:
        """Note a request; one too many is dropped, the device asks again."""
        try:
            get: Get | None = parse_get(raw)
        except Rejected:
            get = None
        full = self._handout.is_over() or len(self._waiting) >= limits.GETS_WAITING_MAX
        if full or self._of_device[device_id] >= limits.GETS_WAITING_PER_DEVICE_MAX:
            self._handout.note_dropped(WAY)
            return
        self._of_device[device_id] += 1
        self._waiting.append(_Asked(device_id, get, correlation, send))
        self._asked.release()

    async def run(self) -> None:
        """Answer, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(limits.GETS_AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:  # until cancelled
            await self._asked.acquire()
            asked = self._waiting.popleft()
            self._of_device[asked.device_id] -= 1
            if self._of_device[asked.device_id] <= 0:
                del self._of_device[asked.device_id]
            try:
                await self._answer(asked)
            except Exception:  # our bug, and one request must not end the service for all
                log.exception("part_not_answered", device=asked.device_id)

    async def _answer(self, asked: _Asked) -> None:
        get = asked.get
        part = Part(Status.MALFORMED) if get is None else await self._handout.part(asked.device_id, get)
        words = [(STATUS, str(part.status))]
        if part.status == Status.OK:
            words.append((TOTAL_BYTES, str(part.total_bytes)))
        sent = await asked.send(asked.device_id, Answer(part.content, tuple(words), asked.correlation))
        self._handout.note(asked.device_id, get, part, sent=sent, way=WAY)
