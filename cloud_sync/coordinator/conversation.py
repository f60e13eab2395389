"""What devices say and what follows: hello, presence, state, reports. How it came here is `mqtt`'s matter.

Each function notes at once what was said, so that the order of messages is kept, and gives back what remains to be
done (writing, answering), which the line does beside the next messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import msgspec
import structlog
from sqlalchemy import Connection

from cloud_sync import limits
from cloud_sync.coordinator.memory import Memory, now_unix_ms
from cloud_sync.coordinator.metrics import Metrics
from cloud_sync.coordinator.planner import Planner
from cloud_sync.coordinator.records import Record
from cloud_sync.store.devices import write_device
from cloud_sync.store.reports import Committed, commit_batch, committed_of
from edge_agent.contract.device_state import parse_device_state
from edge_agent.contract.envelope import SignedKind
from edge_agent.contract.errors import Rejected
from edge_agent.contract.presence import parse_hello, parse_presence
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportAck, parse_report_batch

log = structlog.get_logger()

Acknowledge = Callable[[str, bytes], Awaitable[None]]
Rest = Awaitable[None] | None


class Conversation:
    """Takes what devices say. acknowledge: publishes a signed ReportAck; set by whoever puts the parts together."""

    acknowledge: Acknowledge

    def __init__(self, memory: Memory, planner: Planner, metrics: Metrics) -> None:
        self._memory = memory
        self._planner = planner
        self._metrics = metrics

    def hello(self, device_id: str, raw: bytes) -> Rest:
        """Raises Rejected: malformed, too_large, or of another device."""
        hello = parse_hello(raw)
        _own(device_id, hello.device_id)
        self._check_credible(device_id, hello.revision, {})
        record = self._memory.record(device_id)
        if record is None:
            return None
        self._memory.heard(
            record,
            device_type=hello.device_type,
            agent_version=hello.agent_version,
            models=tuple(sorted(set(hello.models))),
            connection_id=hello.connection_id,
            connected=True,
            told_epoch=hello.epoch,
            told_revision=hello.revision,
        )
        log.info("hello", device=device_id, revision=hello.revision, epoch=hello.epoch, agent=hello.agent_version)
        return self._answer_hello(record, hello.incarnation, hello.acknowledged)

    def presence(self, device_id: str, raw: bytes) -> Rest:
        """Raises Rejected. The will of an earlier connection says nothing about the present one."""
        presence = parse_presence(raw)
        _own(device_id, presence.device_id)
        record = self._memory.records.get(device_id)
        if record is None or (not presence.online and presence.connection_id != record.row.connection_id):
            return None
        if presence.online:
            self._memory.heard(record, connection_id=presence.connection_id, connected=True)
        else:
            record.row = replace(record.row, connected=False)
            self._memory.dirty.add(device_id)
            log.info("device_gone", device=device_id)
        self._planner.wake()
        return None

    def state(self, device_id: str, raw: bytes) -> Rest:
        """Raises Rejected. A lower number of the same connection came late, and says only that the device is there."""
        state = parse_device_state(raw)
        _own(device_id, state.device_id)
        generations = {name: slot.assigned.generation for name, slot in state.models.items() if slot.assigned}
        self._check_credible(device_id, state.revision, generations)
        record = self._memory.record(device_id)
        if record is None:
            return None
        before = record.state
        late = before is not None and before.connection_id == state.connection_id and before.number >= state.number
        if late:
            self._memory.heard(record)
            return None
        record.state = state
        self._memory.heard(
            record,
            agent_version=state.agent_version,
            models=record.row.models or tuple(sorted(state.models)),  # hello says which; this one was there before us
            connection_id=state.connection_id,
            connected=True,
            told_epoch=state.epoch,
            told_revision=state.revision,
            state=raw,
        )
        self._planner.wake()
        return self._planner.judge(record, whole=True)

    def reports(self, device_id: str, raw: bytes) -> Rest:
        """Raises Rejected: malformed, too_large, or of another device."""
        batch = parse_report_batch(raw)
        _own(device_id, batch.device_id)
        record = self._memory.record(device_id)
        if record is None:
            return None
        self._memory.heard(record)
        documents = [(report.number, msgspec.json.encode(report)) for report in batch.reports]
        return self._commit(record, batch.incarnation, batch.after, documents)

    def _check_credible(self, device_id: str, revision: int, generations: Mapping[str, int]) -> None:
        """Compared with what we gave, not with a fixed number: going on above a lie must not make the truth a lie."""
        record = self._memory.records.get(device_id)
        told_and_given = [(revision, record.assigned.revision if record else 0)]
        told_and_given += [(told, self._memory.generations.get(model, 0)) for model, told in generations.items()]
        for told, given in told_and_given:
            if told > given + limits.NUMBER_LEAP_MAX:
                raise Rejected(
                    f"no coordinator gave the number {told}",
                    reason=Reason.MALFORMED,
                    next_step="Look for a device that lies, or a damaged one",
                )

    async def _answer_hello(self, record: Record, incarnation: str, acknowledged: int) -> None:
        row, device_id = record.row, record.row.device_id

        def write(connection: Connection) -> int:
            write_device(connection, row)
            return committed_of(connection, device_id, incarnation)

        committed = await self._memory.database.run(write)
        await self._planner.judge(record)
        await self._planner.judge_reports(record, acknowledged=acknowledged, committed=committed)
        await self._acknowledge(device_id, incarnation, committed)
        if record.row.told_epoch != self._memory.epoch or record.row.told_revision <= record.assigned.revision:
            await self._planner.outbound.assignments([device_id])
        self._planner.wake()

    async def _commit(self, record: Record, incarnation: str, after: int, documents: list[tuple[int, bytes]]) -> None:
        device_id = record.row.device_id

        def write(connection: Connection) -> Committed:
            write_device(connection, record.row)
            return commit_batch(connection, device_id, incarnation, after, documents, now_unix_ms())

        result = await self._memory.database.run(write)
        self._metrics.reports_committed.inc(result.new)
        self._metrics.reports_lost.inc(result.lost)
        record.lost_reports += result.lost
        if result.new:
            log.info(
                "reports_committed", device=device_id, incarnation=incarnation, committed=result.committed,
                new=result.new,
            )  # fmt: skip
        if result.lost:
            log.warning("reports_lost", device=device_id, incarnation=incarnation, lost=result.lost)
        await self._planner.judge_reports(record, acknowledged=after, committed=result.committed)
        await self._acknowledge(device_id, incarnation, result.committed)

    async def _acknowledge(self, device_id: str, incarnation: str, committed: int) -> None:
        if self._memory.replaced:
            return
        ack = ReportAck(device_id, incarnation, committed)
        await self.acknowledge(device_id, self._memory.signer.envelope(SignedKind.REPORT_ACK, ack))


def _own(topic_device_id: str, device_id: str) -> None:
    if topic_device_id != device_id:
        raise Rejected(f"{topic_device_id} speaks as {device_id}", reason=Reason.WRONG_DEVICE)
