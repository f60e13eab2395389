"""Event in → decide → persist → act → the outcome is the next event; the same loop for every cause. Decisions are
`core`'s.

A transition, the intent that follows from it and the reports that it causes are one transaction, made before
anything is done. Safety events (leave a bad worker, step down the ladder, a rollback) go on in memory when that write
fails or does not come back in time: a full disk is no outage, nor is one that hangs. What the disk lacks is kept in
`_unsaved`, and written with the newest state once it can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import Bug, HoldfastError, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core.actions import Action, Tell
from edge_agent.core.events import Event, Observed, Woke
from edge_agent.core.lifecycle import Step, decide
from edge_agent.core.serving import Refusal
from edge_agent.core.state import ModelState, Moment, persistent_part

log = structlog.get_logger()

Clock = Callable[[], Moment]


class TransitionStore(Protocol):
    """Where transitions are persisted; the real one is `runtime.persistence`, on the store thread."""

    async def commit(self, state: ModelState, event: Event, told: tuple[Tell, ...], now: Moment) -> None:
        """One transaction: state, journal, reports. Raises Unavailable (disk full, read-only) or Corrupt."""


class Actor(Protocol):
    """Who carries actions out. `act` returns at once; outcomes come back as events."""

    def act(self, action: Action) -> None:
        """Start this action."""


@dataclass(frozen=True, slots=True)
class Late:
    """A commit that was not done in time and may still succeed; `told` is what it says."""

    model: str
    told: tuple[Tell, ...]
    saving: asyncio.Task[None]


class Executor:
    """Owns the state of all model slots; one event at a time."""

    def __init__(self, store: TransitionStore, actor: Actor, clock: Clock, states: Iterable[ModelState]) -> None:
        self._store = store
        self._actor = actor
        self._clock = clock
        self._states = {state.model: state for state in states}
        self._queue: asyncio.Queue[tuple[Event, asyncio.Future[Step]]] = asyncio.Queue(limits.EVENTS_WAITING_MAX)
        self._unsaved: dict[str, tuple[Tell, ...]] = {}  # slots whose state the disk lacks, and what was not told yet
        self._late: Late | None = None  # while there is one, nothing else is given to the disk
        self._saving: asyncio.Task[None] | None = None
        self._safety_waiting = 0
        self._urgent = asyncio.Event()
        self._woken = asyncio.Event()
        self._woke_s: dict[str, float] = {}
        self._changed = asyncio.Condition()
        self.changes = 0
        self.storage_reason: Reason | None = None

    def state(self, model: str) -> ModelState:
        """The present state of this slot. Raises KeyError for a model that this device does not run."""
        return self._states[model]

    def states(self) -> tuple[ModelState, ...]:
        """The present state of every slot."""
        return tuple(self._states.values())

    def post(self, event: Event) -> asyncio.Future[Step]:
        """Queue an event; the future is done when it has been decided, persisted and acted on.

        Raises Unavailable when the queue is full, which only a flood from outside could cause.
        """
        future: asyncio.Future[Step] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((event, future))
        except asyncio.QueueFull:
            raise Unavailable("the runtime has too many events waiting", next_step="Try again") from None
        if event.safety:
            self._safety_waiting += 1
            self._urgent.set()
        return future

    def note_storage(self, reason: Reason) -> None:
        """Somebody else found that the disk cannot be written; it is said until a transition could be persisted."""
        self.storage_reason = reason
        self._woken.set()

    def is_saved(self, model: str) -> bool:
        """Whether the disk has the present state of this slot."""
        return model not in self._unsaved

    def would_refuse(self, event: Event) -> Refusal | None:
        """Why this event would be refused now, without anything happening; the disk is not asked, it may hang."""
        if self._late is not None and not event.safety:
            return Refusal(Reason.DISK_HANGS, "an earlier write has not come back yet")
        return decide(self._states[event.model], event, self._clock()).refusal

    async def wait_change(self, seen: int, timeout_s: float) -> int:
        """Return the number of changes so far once it is greater than `seen`, or after timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                async with self._changed:
                    await self._changed.wait_for(lambda: self.changes > seen)
        except TimeoutError:
            return self.changes
        return self.changes

    async def run(self) -> None:
        """Handle events, and wake the core when it wants to be woken, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._wake(), name="executor-wake")
                while True:  # bounded by its queue; ends by cancellation
                    event, future = await self._queue.get()
                    if event.safety:
                        self._safety_waiting -= 1
                    if not self._safety_waiting:
                        self._urgent.clear()
                    step = await self.handle(event)
                    if not future.done():
                        future.set_result(step)
                    self._woken.set()
        finally:
            if self._saving is not None:
                self._saving.cancel()

    async def handle(self, event: Event) -> Step:
        """One event, whole. Raises Bug when the outcome breaks an invariant: the process ends and is restarted."""
        now = self._clock()
        old = self._states[event.model]
        step = decide(old, event, now)
        if step.refusal is not None:
            log.info("event_refused", model=event.model, event_type=type(event).__name__,
                     reason=step.refusal.reason.value, detail=step.refusal.text)  # fmt: skip
            return step
        fault = step.state.fault()
        if fault:
            raise Bug(f"{event.model}: after {type(event).__name__} {fault}")
        refused = await self._persist(old, step, event, now)
        if refused is not None:
            return refused
        self._states[event.model] = step.state
        if not isinstance(event, Observed) or persistent_part(old) != persistent_part(step.state):
            async with self._changed:  # counted answers alone, once a second, are no news
                self.changes += 1
                self._changed.notify_all()
        for action in step.actions:
            if not isinstance(action, Tell):
                self._actor.act(action)
        return step

    async def _persist(self, old: ModelState, step: Step, event: Event, now: Moment) -> Step | None:
        """None when the step may go on; a refusing step when it could not be persisted and is not about safety."""
        told = tuple(action for action in step.actions if isinstance(action, Tell))
        _log_told(told)
        self._settle_late()
        waiting = self._unsaved.get(event.model, ())
        unchanged = persistent_part(old) == persistent_part(step.state)
        nothing_new = not told and self.is_saved(event.model) and unchanged
        if nothing_new and self.storage_reason is None:
            return None
        try:
            await self._commit(step.state, event, (*waiting, *told), now)
        except HoldfastError as error:
            reason = error.reason or Reason.READ_ONLY
            if told or reason is not self.storage_reason:
                log.error("persist_failed", model=event.model, event_type=type(event).__name__, reason=reason.value,
                          detail=error.message, next_step=reason.next_step)  # fmt: skip
            self.storage_reason = reason
            if nothing_new:
                return None  # it was only tried whether the disk can be written again
            if not event.safety:
                if self._late is not None:
                    self._unsaved.setdefault(event.model, ())  # should it be written after all, `old` replaces it
                return Step(old, (), Refusal(self.storage_reason, error.message))
            self._unsaved[event.model] = (*waiting, *told)[-limits.UNTOLD_MAX :]
            return None
        self._unsaved.pop(event.model, None)
        self._note_saved()
        return None

    async def _commit(self, state: ModelState, event: Event, told: tuple[Tell, ...], now: Moment) -> None:
        """Raises HoldfastError: what the store says, or disk_hangs while a write is not done in time."""
        if self._late is not None:
            raise Unavailable("an earlier write has not come back yet", reason=Reason.DISK_HANGS)
        saving = self._saving = asyncio.create_task(self._store.commit(state, event, told, now))
        await asyncio.wait({saving}, timeout=limits.PERSIST_S)
        if not saving.done() and not event.safety:
            urgent = asyncio.create_task(self._urgent.wait())
            patience_s = limits.PERSIST_PATIENT_S - limits.PERSIST_S
            try:
                await asyncio.wait({saving, urgent}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                urgent.cancel()
        if not saving.done():
            self._late = Late(event.model, told, saving)
            saving.add_done_callback(lambda _: self._woken.set())
            raise Unavailable("a write does not come back", reason=Reason.DISK_HANGS)
        saving.result()

    def _settle_late(self) -> None:
        """A write that came back late: what it said is told; whatever has changed since is written at once."""
        late = self._late
        if late is None or not late.saving.done():
            return
        self._late = None
        self._woke_s.clear()
        try:
            late.saving.result()
        except HoldfastError as error:
            self.storage_reason = error.reason or Reason.READ_ONLY
            log.error("persist_failed_late", model=late.model, reason=self.storage_reason.value,
                      detail=error.message, next_step=self.storage_reason.next_step)  # fmt: skip
            return
        log.info("persisted_late", model=late.model, facts=len(late.told))
        if late.model in self._unsaved:
            written = {id(tell) for tell in late.told}  # by identity: the same fact may happen twice
            waiting = self._unsaved[late.model]
            self._unsaved[late.model] = tuple(tell for tell in waiting if id(tell) not in written)
        self._note_saved()

    def _note_saved(self) -> None:
        if self._unsaved:
            return  # their turn comes with the next wake-up
        if self.storage_reason is not None:
            log.info("persist_works_again")
        self.storage_reason = None

    async def _wake(self) -> None:
        """Post `Woke` when a slot's time has come."""
        while True:  # one pass a wake-up; ends by cancellation
            self._settle_late()
            now_s = self._clock().monotonic_s
            for model in self._due(now_s):
                self._woke_s[model] = now_s
                try:
                    await self.post(Woke(model))
                except Unavailable:
                    break  # a flood from outside: the slot is due again after WAKE_PAUSE_MAX_S
            later = [at_s for at_s in self._deadlines().values() if at_s > now_s]
            self._woken.clear()
            try:
                async with asyncio.timeout(min([limits.WAKE_PAUSE_MAX_S, *(at_s - now_s for at_s in later)])):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def _deadlines(self) -> dict[str, float]:
        times = {state.model: state.wakes_at_s() for state in self._states.values()}
        return {model: at_s for model, at_s in times.items() if at_s is not None}

    def _due(self, now_s: float) -> list[str]:
        """Slots to wake now: at each deadline once, and at intervals while it stands or the disk cannot be written.

        The latter finds out that the disk can be written again, and tells what waits.
        """
        deadlines = self._deadlines()
        due = []
        for model in self._states:
            woke_s = self._woke_s.get(model, float("-inf"))
            at_s = deadlines.get(model, float("inf"))
            rested = now_s - woke_s >= limits.WAKE_PAUSE_MAX_S
            if woke_s < at_s <= now_s or (rested and (at_s <= now_s or self.storage_reason is not None)):
                due.append(model)
        return due


def _log_told(told: tuple[Tell, ...]) -> None:
    for tell in told:
        log.info(
            "lifecycle_" + tell.kind.value,
            model=tell.model,
            snapshot=tell.digest,
            version=tell.version,
            phase=tell.phase,
            reason=tell.reason.value if tell.reason else None,
            why=tell.reason.log_line if tell.reason else None,
            detail=tell.detail or None,
        )
