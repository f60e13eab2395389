"""Which device may have which part, and what is noted of it, whether it asks over MQTT or over HTTP. What is in a part
is `repository.shelf`'s matter, how it travels `mqtt`'s and `api`'s.
"""

from __future__ import annotations

import asyncio

import structlog

from cloud_sync import limits
from cloud_sync.coordinator.memory import Memory, now_unix_ms
from cloud_sync.coordinator.metrics import Metrics
from cloud_sync.repository.catalog import without
from cloud_sync.repository.shelf import Part, Shelf
from cloud_sync.store.snapshots import ServedPart
from edge_agent.contract.reasons import Reason
from edge_agent.contract.transfer import Get, Kind, Status

log = structlog.get_logger()


class Handout:
    """A device may have metadata, and what was ever assigned to it. Files are read in threads."""

    def __init__(self, memory: Memory, shelf: Shelf, metrics: Metrics) -> None:
        self._memory = memory
        self._shelf = shelf
        self._metrics = metrics

    def is_over(self) -> bool:
        """Whether the publisher has named another coordinator, which serves the devices from now on."""
        return self._memory.replaced

    async def part(self, device_id: str, get: Get) -> Part:
        """The part, or the status that says why not."""
        part = await asyncio.to_thread(self._part, device_id, get)
        if part.damaged and get.kind is Kind.MANIFEST:
            self._memory.catalog = without(self._memory.catalog, get.name)
        return part

    def note(self, device_id: str, get: Get | None, part: Part, *, sent: bool, way: str) -> None:
        """Count and log an answer. get: None when it was malformed. sent: it went out whole. way: mqtt or http."""
        self._metrics.parts.labels(str(part.status), way).inc()
        if part.status == Status.OK and get is not None:
            if sent:
                self._note_served(device_id, get, part, way)
        elif part.status == Status.NOT_THERE and get is not None and get.kind in (Kind.METADATA, Kind.COORDINATOR):
            log.debug("no_such_metadata", device=device_id, name=get.name)  # a newer root? a coordinator by now?
        else:
            reason = Reason.NOT_ASSIGNED.value if part.status == Status.NOT_ASSIGNED else None
            name = get.name if get else None
            log.warning("part_refused", device=device_id, status=part.status, reason=reason, name=name)

    def note_dropped(self, way: str) -> None:
        """One too many was asked for; the device asks again."""
        self._metrics.parts.labels("dropped", way).inc()

    def _note_served(self, device_id: str, get: Get, part: Part, way: str) -> None:
        self._metrics.part_bytes.labels(way).inc(len(part.content))
        if len(self._memory.parts) < limits.SERVED_PARTS_WAITING_MAX:
            served = ServedPart(device_id, get.name, get.offset, len(part.content), now_unix_ms())
            self._memory.parts.append(served)

    def _part(self, device_id: str, get: Get) -> Part:
        """In a thread: files are read and hashed."""
        if not self._may_have(device_id, get):
            return Part(Status.NOT_ASSIGNED)
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
