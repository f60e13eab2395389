"""Planning and carrying it out: assignments are committed, then published; what is planned is decided in `core`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol

import structlog
from sqlalchemy import Connection

from cloud_sync import limits
from cloud_sync.coordinator.memory import Memory
from cloud_sync.coordinator.records import Record
from cloud_sync.core.fleet import Rollout
from cloud_sync.core.plan import Action, Assign, HaltRollout, plan, standing
from cloud_sync.core.restored import ahead, renumbered
from cloud_sync.store.devices import AssignmentRow, DeviceRow, write_assignment, write_device
from cloud_sync.store.rollouts import (
    PLANNING_STOPPED,
    RESUMES,
    forget_rollout,
    halt_rollout,
    raise_generation,
    remember,
    write_rollout,
)
from edge_agent.contract.assignment import Assignment, ModelAssignment
from edge_agent.contract.envelope import SignedKind
from edge_agent.contract.errors import HoldfastError

log = structlog.get_logger()


class Outbound(Protocol):
    """Where assignments go out."""

    async def assignments(self, device_ids: Sequence[str]) -> None:
        """Publish the present assignments of these devices, as far as there is a broker now. Never raises ours."""


class Planner:
    """Plans one at a time. `outbound` is set by whoever puts the coordinator together."""

    outbound: Outbound

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something changed that planning should look at soon."""
        self._wake.set()

    async def run(self) -> None:
        """Plan whenever something changed, and now and then for those who fell silent; until cancelled."""
        while True:  # until cancelled
            try:
                async with asyncio.timeout(limits.LIVENESS_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time to look for silence
            self._wake.clear()
            began_s = time.monotonic()
            try:
                await self.plan_now()
            except HoldfastError as error:
                log.error("plan_not_carried_out", error=str(error))
            took_s = time.monotonic() - began_s
            await asyncio.sleep(max(limits.PLAN_PAUSE_S, limits.PLAN_PAUSE_RATIO * took_s))

    async def plan_now(self) -> None:
        """Carry out what is to be done now. Raises Unavailable or Corrupt when it cannot be committed."""
        async with self._lock:
            for _ in range(limits.PLAN_ROUNDS_MAX):
                if self._memory.stopped() is not None:
                    return
                actions = plan(self._memory.fleet(), self._memory.rollouts, self._memory.now_s())
                if not actions:
                    return
                await self._carry_out(actions)
        self._wake.set()  # devices go on talking while we commit; the rest follows after a pause

    async def add(self, make: Callable[[int], Rollout]) -> Rollout:
        """Commit a rollout, made with its number, then what follows from it at once. Raises Unavailable or Corrupt."""
        memory = self._memory
        async with self._lock:
            rollout = make(max((one.number for one in memory.rollouts), default=0) + 1)
            spare = self._spare_rollouts(rollout)

            def write(connection: Connection) -> None:
                write_rollout(connection, rollout)
                for old in spare:
                    forget_rollout(connection, old.rollout_id)

            await memory.database.run(write)
            memory.rollouts = [one for one in memory.rollouts if one not in spare] + [rollout]
            memory.generations[rollout.model] = rollout.generation
            log.info(
                "rollout_created", rollout=rollout.rollout_id, model=rollout.model, snapshot=rollout.digest,
                version=rollout.version, generation=rollout.generation, strategy=rollout.strategy.value,
                kind=rollout.kind.value,
            )  # fmt: skip
        await self.plan_now()
        return rollout

    def envelope(self, record: Record) -> bytes | None:
        """The signed assignment of a device; None when there is none that it could believe."""
        row = record.assigned
        if row.epoch == 0 or row.epoch != self._memory.epoch:
            return None
        models = {
            name: ModelAssignment(target.digest, target.version, target.generation, target.policy)
            for name, target in row.models.items()
        }
        document = Assignment(record.row.device_id, row.epoch, row.revision, models)
        return self._memory.signer.envelope(SignedKind.ASSIGNMENT, document)

    # ---- a database that is behind its devices

    async def judge(self, record: Record, *, whole: bool = False) -> None:
        """Look whether this device is ahead of us: a sign of a restored backup, unless an operator went on since.

        whole: it has just told all its numbers; if they agree with ours, the next one that does not is a new sign.
        """
        memory = self._memory
        if memory.epoch == 0:
            return
        agreed = record.row.resumes == memory.resumes
        why = ahead(record.told(), record.given(memory.epoch, memory.generations, agreed=agreed))
        if why is None:
            if whole and not agreed:
                memory.heard(record, resumes=memory.resumes)
        elif not agreed and memory.restored is None:
            log.warning("numbers_taken_over", device=record.row.device_id, why=why)
            await self._go_on_above([record], resumed=False)
            if whole and record.row.told_epoch == memory.epoch:  # once: each time gives all devices new assignments
                memory.heard(record, resumes=memory.resumes)
        else:
            await memory.stop(record.row.device_id, why)

    async def judge_reports(self, record: Record, *, acknowledged: int, committed: int) -> None:
        """The same by the reports that the device was told to be committed; it sends the missing ones again."""
        memory = self._memory
        told = record.row.told_epoch
        # Who took no assignment yet may have been acknowledged by an earlier coordinator, if there was one.
        if memory.epoch == 0 or (told < memory.epoch and (told > 0 or memory.epoch > 1)):
            return
        agreed = record.row.report_resumes == memory.resumes
        if acknowledged <= committed:
            if not agreed:
                memory.heard(record, report_resumes=memory.resumes)
        elif agreed or memory.restored is not None:
            why = f"it was told that {acknowledged} reports are committed, this database has {committed}"
            await memory.stop(record.row.device_id, why)

    async def judge_all(self) -> None:
        """Look at every device: a newly named coordinator knows its epoch only now."""
        for record in list(self._memory.records.values()):
            await self.judge(record)

    async def resume(self) -> None:
        """Accept the present database: go on above all that devices told. Raises Unavailable or Corrupt."""
        if self._memory.restored is not None:
            await self._go_on_above(list(self._memory.records.values()), resumed=True)
            log.warning("planning_resumed")
        await self.plan_now()

    async def _go_on_above(self, records: Sequence[Record], *, resumed: bool) -> None:
        """Take over revisions and generations that these devices told; their assignments are made again above them."""
        memory = self._memory
        async with self._lock:
            told: dict[str, int] = {}
            for record in records:
                if record.row.told_epoch != memory.epoch:
                    continue  # an earlier coordinator's numbers
                for model, generation in record.generations().items():
                    told[model] = max(told.get(model, 0), generation)
            new = renumbered(memory.rollouts, memory.generations, told)
            moved = {(r.model, r.generation): new[r.rollout_id] for r in memory.rollouts if r.rollout_id in new}
            rollouts = [replace(r, generation=new.get(r.rollout_id, r.generation)) for r in memory.rollouts]
            rows = {name: _moved(record, moved, record in records) for name, record in memory.records.items()}
            changed = {name: row for name, row in rows.items() if row != memory.records[name].assigned}
            resumes = memory.resumes + resumed
            kept = {name: memory.records[name].row for name in changed}

            def write(connection: Connection) -> None:
                for model, generation in told.items():
                    raise_generation(connection, model, generation)
                for rollout in rollouts:
                    if rollout.rollout_id in new:
                        write_rollout(connection, rollout)
                for name, row in changed.items():
                    write_device(connection, kept[name])
                    write_assignment(connection, name, row)
                if resumed:
                    remember(connection, PLANNING_STOPPED, None)
                    remember(connection, RESUMES, str(resumes))

            await memory.database.run(write)
            for model, generation in [*told.items(), *((r.model, r.generation) for r in rollouts)]:
                memory.generations[model] = max(memory.generations.get(model, 0), generation)
            memory.rollouts = rollouts
            for name, row in changed.items():
                memory.records[name].assigned = row
            memory.resumes = resumes
            if resumed:
                memory.restored = None
                memory.excused |= memory.ahead
                memory.ahead = set()
        self.wake()

    # ---- carrying out

    async def _carry_out(self, actions: Sequence[Action]) -> None:
        memory = self._memory
        halts = [action for action in actions if isinstance(action, HaltRollout)]
        rows: dict[str, AssignmentRow] = {}
        kept: dict[str, DeviceRow] = {}
        for action in actions:
            if isinstance(action, Assign):
                record = memory.records[action.device_id]
                told = record.row.told_revision if record.row.told_epoch == memory.epoch else 0
                revision = max(record.assigned.revision, told) + 1
                rows[action.device_id] = AssignmentRow(memory.epoch, revision, dict(action.models))
                kept[action.device_id] = record.row

        def write(connection: Connection) -> None:
            for halt in halts:
                halt_rollout(connection, halt.rollout_id, halt.halt)
            for name, row in rows.items():
                write_device(connection, kept[name])  # it may be too new to have a row
                write_assignment(connection, name, row)

        await memory.database.run(write)
        for halt in halts:
            memory.rollouts = [
                replace(r, halted=halt.halt) if r.rollout_id == halt.rollout_id else r for r in memory.rollouts
            ]
            log.error(
                "rollout_halted", rollout=halt.rollout_id, device=halt.halt.device_id, reason=halt.halt.reason,
                next_step=f"See `fleet rollout status {halt.rollout_id}`",
            )  # fmt: skip
        rollout_ids = {(one.model, one.generation): one.rollout_id for one in memory.rollouts}
        for name, row in rows.items():
            record = memory.records[name]
            _log_assigned(name, record.assigned, row, rollout_ids)
            record.assigned = row
            record.entitled |= {target.digest for target in row.models.values()}
        if rows:
            await self.outbound.assignments(list(rows))

    def _spare_rollouts(self, new: Rollout) -> list[Rollout]:
        """The oldest ones that count for nobody any more, as many as there are too many."""
        rollouts = [*self._memory.rollouts, new]
        too_many = len(rollouts) - limits.ROLLOUTS_MAX
        if too_many <= 0:
            return []
        needed = {rollout.rollout_id for rollout in standing(rollouts)}
        given = {(m, t.generation) for one in self._memory.records.values() for m, t in one.assigned.models.items()}
        spare = (r for r in rollouts if r.rollout_id not in needed and (r.model, r.generation) not in given)
        return list(islice(spare, too_many))


def _log_assigned(
    device_id: str, before: AssignmentRow, row: AssignmentRow, rollout_ids: Mapping[tuple[str, int], str]
) -> None:
    """A line for each model whose target is another one now; for each of them where only epoch or revision changed.

    The device logs epoch, revision and generation too, so that its lines and the rollout can be told together.
    """
    changed = {model: target for model, target in row.models.items() if before.models.get(model) != target}
    for model, target in (changed or row.models).items():
        log.info(
            "assigned", device=device_id, epoch=row.epoch, revision=row.revision, model=model, snapshot=target.digest,
            version=target.version, generation=target.generation, rollout=rollout_ids.get((model, target.generation)),
        )  # fmt: skip
    for model in before.models.keys() - row.models.keys():
        log.info("unassigned", device=device_id, epoch=row.epoch, revision=row.revision, model=model)


def _moved(record: Record, moved: dict[tuple[str, int], int], above: bool) -> AssignmentRow:
    """The assignment with new generations; `above`: with a revision not below what the device told. One that changed
    belongs to no epoch, so that planning makes it anew.
    """
    row = record.assigned
    models = {
        model: replace(target, generation=moved.get((model, target.generation), target.generation))
        for model, target in row.models.items()
    }
    revision = max(row.revision, record.row.told_revision) if above else row.revision
    changed = AssignmentRow(row.epoch, revision, models)
    return row if changed == row else replace(changed, epoch=0)
