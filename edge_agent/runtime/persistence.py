"""The executor's store: a transition becomes a state document, journal lines and reports in one transaction of
agent.db.

When a transition is saved, and what goes on when it cannot be, is `executor`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import structlog

from edge_agent.contract import canonical, limits
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import Report, ReportAck, ReportBatch, parse_report
from edge_agent.core.actions import Tell
from edge_agent.core.events import Event
from edge_agent.core.state import ModelState, Moment
from edge_agent.runtime.saved_state import decode_state, encode_state
from edge_agent.store.agent_db import AgentDb, JournalEntry
from edge_agent.store.thread import Priority, StoreThread

log = structlog.get_logger()

_QUIET_FIELDS = {"model", "settings", "known", "live", "snapshot"}  # too long for a line of the story


class AgentStore:
    """agent.db behind an async face; where it cannot be written now, every commit tries again whether it can."""

    def __init__(self, thread: StoreThread, path: Path, agent: AgentDb | None, device_id: str) -> None:
        self._thread = thread
        self._path = path
        self._agent = agent
        self._device_id = device_id
        self._incarnation = ""
        self._counting: asyncio.Task[int] | None = None
        self._counted = 0

    async def begin(self) -> int:
        """The number of this boot, persisted if possible; called once, before anything else."""
        return await self._thread.call(self._begin, priority=Priority.SAFETY)

    def _begin(self) -> int:
        agent = self._agent
        if agent is None:
            return 0
        try:
            self._incarnation = _incarnation_of(agent)
            return int(agent.meta("boot") or 0) if agent.read_only else agent.next_boot()
        except (HoldfastError, ValueError) as error:
            log.error("boot_not_counted", detail=str(error))
            return int(_or_zero(agent, "boot"))

    async def states(self) -> dict[str, ModelState]:
        """Saved states that can be read; the others are rebuilt from what verifies."""
        if self._agent is None:
            return {}
        agent = self._agent
        try:
            documents = await self._thread.call(agent.states, priority=Priority.SAFETY)
        except HoldfastError as error:
            log.error("states_not_readable", detail=error.message)
            return {}
        decoded = {model: decode_state(raw) for model, raw in documents.items()}
        believed = {model: state for model, state in decoded.items() if state is not None and state.model == model}
        for model in decoded:
            if model not in believed:
                log.error("state_not_believed", model=model, next_step="It is rebuilt from what verifies")
        return believed

    async def commit(self, state: ModelState, event: Event, told: tuple[Tell, ...], now: Moment) -> None:
        """One transaction. Raises Unavailable (disk_full, read_only) or Corrupt."""
        await self._thread.call(self._commit, state, event, told, now, priority=Priority.SAFETY)

    def _commit(self, state: ModelState, event: Event, told: tuple[Tell, ...], now: Moment) -> None:
        agent = self._writable()  # first: a new database begins a new incarnation, which the reports name
        entries = tuple(_journal_entry(event, tell) for tell in told)
        reports = tuple(self._report(tell, now) for tell in told)
        agent.commit_transition(state.model, encode_state(state), entries, reports, now.unix_ms)

    def _writable(self) -> AgentDb:
        """The database, opened anew if it could not be written so far. Raises Unavailable or Corrupt."""
        if self._agent is None or self._agent.read_only:
            fresh = AgentDb(self._path)
            self._incarnation = ""
            log.info("agent_db_writable_again")
            if self._agent is not None:
                self._agent.close()
            self._agent = fresh
        if not self._incarnation:
            self._incarnation = _incarnation_of(self._agent)
        return self._agent

    async def keep(self, key: str, value: str) -> None:
        """Keep a small value. Raises Unavailable (disk_full, read_only, disk_hangs) or Corrupt."""
        await self._thread.call(lambda: self._writable().set_meta({key: value}), timeout_s=limits.PERSIST_PATIENT_S)

    async def kept(self, key: str) -> str | None:
        """A small value; None also when it cannot be read."""
        agent = self._agent
        if agent is None:
            return None
        try:
            return await self._thread.call(agent.meta, key, priority=Priority.SAFETY)
        except HoldfastError as error:
            log.error("value_not_readable", key=key, detail=error.message)
            return None

    async def journal(self, model: str | None, newest: int) -> tuple[JournalEntry, ...]:
        """The device's story, oldest of the newest lines first."""
        if self._agent is None:
            return ()
        agent = self._agent
        return await self._thread.call(lambda: agent.journal(model=model, newest=newest))

    async def outbox_count(self) -> int:
        """Reports waiting; while the disk hangs, as many as there were before."""
        agent = self._agent
        if agent is None:
            return 0
        if self._counting is None:
            self._counting = asyncio.create_task(self._thread.call(agent.outbox_count))
        counting = self._counting
        await asyncio.wait({counting}, timeout=limits.PERSIST_S)
        if counting.done():
            self._counting = None
            with contextlib.suppress(Corrupt, Unavailable):
                self._counted = counting.result()
        return self._counted

    async def tell_telemetry(self, tell: Tell, now: Moment) -> None:
        """A fact that no transition causes; lost where it cannot be written."""
        try:
            await self._thread.call(lambda: self._writable().add_telemetry(self._report(tell, now)))
        except HoldfastError as error:
            log.warning("telemetry_lost", kind=tell.kind.value, detail=error.message)

    async def outbox_mark(self) -> tuple[str, int]:
        """The incarnation of the numbering, and the number up to which reports are acknowledged."""
        agent = self._agent
        if agent is None:
            return self._incarnation or "unknown", 0
        acknowledged = await self._thread.call(agent.acknowledged)
        return self._incarnation or "unknown", acknowledged

    async def outbox_batch(self) -> ReportBatch:
        """The oldest reports that are not acknowledged, as many as fit one message. Raises Unavailable or Corrupt."""
        return await self._thread.call(self._outbox_batch)

    def _outbox_batch(self) -> ReportBatch:
        agent, incarnation = self._agent, self._incarnation or "unknown"
        if agent is None:
            return ReportBatch(self._device_id, incarnation, 0, ())
        reports: list[Report] = []
        room_bytes = limits.REPORT_BATCH_BYTES_MAX - limits.REPORT_BATCH_HEAD_BYTES
        for number, body in agent.outbox(oldest=limits.REPORTS_PER_BATCH_MAX):
            room_bytes -= len(body) + limits.REPORT_NUMBER_BYTES
            if room_bytes < 0:
                break
            report = _readable(body)
            if report is not None:  # a damaged row is a number that never comes
                reports.append(msgspec.structs.replace(report, incarnation=incarnation, number=number))
        return ReportBatch(self._device_id, incarnation, agent.acknowledged(), tuple(reports))

    async def acknowledge(self, ack: ReportAck) -> int:
        """What the coordinator has committed; the acknowledged number then.

        Raises Rejected (wrong_device, out_of_order: another incarnation's), Unavailable (disk_full, read_only) or
        Corrupt.
        """
        return await self._thread.call(self._acknowledge, ack, timeout_s=limits.PERSIST_PATIENT_S)

    async def acknowledged_by(self, coordinator: str) -> None:
        """Count acknowledgements anew when the publisher names another coordinator (its key, hexadecimal digits).

        Raises Unavailable (disk_full, read_only, disk_hangs) or Corrupt.
        """
        await self._thread.call(
            lambda: self._writable().acknowledged_by(coordinator), timeout_s=limits.PERSIST_PATIENT_S
        )

    def _acknowledge(self, ack: ReportAck) -> int:
        if ack.device_id != self._device_id:
            raise Rejected(f"this acknowledgement is for {ack.device_id}", reason=Reason.WRONG_DEVICE)
        if ack.incarnation != self._incarnation:
            raise Rejected("this acknowledges reports of another incarnation", reason=Reason.OUT_OF_ORDER)
        agent = self._writable()
        if ack.committed > agent.newest_report():
            self._incarnation = secrets.token_hex(8)
            agent.begin_incarnation(self._incarnation)
            log.warning("agent_db_is_older_than_the_coordinator", committed=ack.committed,
                        next_step="Nothing to do: its reports are numbered anew")  # fmt: skip
            return 0
        if ack.committed != agent.acknowledged():
            agent.acknowledge(ack.committed)
        return ack.committed

    def _report(self, tell: Tell, now: Moment) -> bytes:
        """The fact without its number: the outbox gives it one, in the same transaction."""
        return canonical.encode(
            Report(
                device_id=self._device_id,
                incarnation=self._incarnation or "unknown",
                number=0,
                at_unix_ms=max(now.unix_ms, 0),
                kind=tell.kind,
                model=tell.model,
                digest=tell.digest if tell.digest and len(tell.digest) == 64 else None,
                version=tell.version or None,
                phase=tell.phase,
                reason=tell.reason.value if tell.reason else None,
                detail=tell.detail[: limits.DETAIL_CHARS_MAX],
            )
        )


def _readable(body: bytes) -> Report | None:
    try:
        return parse_report(body)
    except HoldfastError as error:
        log.error("report_not_readable", detail=error.message)
        return None


def _journal_entry(event: Event, tell: Tell) -> dict[str, Any]:
    cause = {
        field.name: str(getattr(event, field.name))[: limits.DETAIL_CHARS_MAX]
        for field in fields(event)
        if field.name not in _QUIET_FIELDS
    }
    return {
        "kind": tell.kind.value,
        "digest": tell.digest,
        "version": tell.version,
        "phase": tell.phase,
        "reason": tell.reason.value if tell.reason else None,
        "detail": tell.detail,
        "event": type(event).__name__,
        "cause": cause,
    }


def _incarnation_of(agent: AgentDb) -> str:
    """The name of this database's numbering; a new one is given, if that can be written."""
    found = agent.meta("incarnation") or ""
    if not found and not agent.read_only:
        found = secrets.token_hex(8)
        agent.set_meta({"incarnation": found})
    return found


def _or_zero(agent: AgentDb, key: str) -> int:
    try:
        return int(agent.meta(key) or 0)
    except (HoldfastError, ValueError):
        return 0
