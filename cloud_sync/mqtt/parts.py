"""Answering requests for parts, a few at a time and beside everything else: an assignment never waits behind them.

What is in the parts is `repository.shelf`'s matter. A device may have metadata, and what was ever assigned to it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from cloud_sync import limits
from cloud_sync.coordinator.memory import Memory, now_unix_ms
from cloud_sync.coordinator.metrics import Metrics
from cloud_sync.repository.catalog import without
from cloud_sync.repository.shelf import FORBIDDEN, NOT_THERE, OK, Part, Shelf
from cloud_sync.store.snapshots import ServedPart
from edge_agent.contract.errors import Rejected
from edge_agent.contract.transfer import STATUS, TOTAL_BYTES, Get, Kind, parse_get

log = structlog.get_logger()

MALFORMED = 400


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

    def __init__(self, memory: Memory, shelf: Shelf, metrics: Metrics) -> None:
        self._memory = memory
        self._shelf = shelf
        self._metrics = metrics
        self._waiting: deque[_Asked] = deque()
        self._of_device: Counter[str] = Counter()
        self._asked = asyncio.Semaphore(0)

    def ask(self, device_id: str, raw: bytes, correlation: bytes | None, send: Send) -> None:
        """Note a request; one too many is dropped, the device asks again."""
        try:
            get: Get | None = parse_get(raw)
        except Rejected:
            get = None
        full = self._memory.replaced or len(self._waiting) >= limits.GETS_WAITING_MAX
        if full or self._of_device[device_id] >= limits.GETS_WAITING_PER_DEVICE_MAX:
            self._metrics.parts.labels("dropped").inc()
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
        if get is None:
            part = Part(MALFORMED)
        else:
            part = await asyncio.to_thread(self._part, asked.device_id, get)
        if part.damaged and get is not None and get.kind is Kind.MANIFEST:
            self._memory.catalog = without(self._memory.catalog, get.name)
        words = [(STATUS, str(part.status))]
        if part.status == OK:
            words.append((TOTAL_BYTES, str(part.total_bytes)))
        sent = await asked.send(asked.device_id, Answer(part.content, tuple(words), asked.correlation))
        self._metrics.parts.labels(str(part.status)).inc()
        if part.status == OK and get is not None and sent:
            self._metrics.part_bytes.inc(len(part.content))
            if len(self._memory.parts) < limits.SERVED_PARTS_WAITING_MAX:
                served = ServedPart(asked.device_id, get.name, get.offset, len(part.content), now_unix_ms())
                self._memory.parts.append(served)
        elif part.status == NOT_THERE and get is not None and get.kind is Kind.METADATA:
            log.debug("no_such_metadata", device=asked.device_id, name=get.name)  # is there a newer root? mostly not
        elif part.status != OK:
            log.warning("part_refused", device=asked.device_id, status=part.status, name=get.name if get else None)

    def _part(self, device_id: str, get: Get) -> Part:
        """In a thread: files are read and hashed."""
        if not self._may_have(device_id, get):
            return Part(FORBIDDEN)
        return self._shelf.part(get, self._memory.catalog)

    def _may_have(self, device_id: str, get: Get) -> bool:
        if get.kind in (Kind.METADATA, Kind.COORDINATOR):
            return True
        record = self._memory.records.get(device_id)
        entitled = tuple(record.entitled) if record else ()
        if get.kind is Kind.MANIFEST:
            return get.name in entitled
        catalog = self._memory.catalog
        return any(self._shelf.names_chunk(digest, get.name, catalog) for digest in entitled)
