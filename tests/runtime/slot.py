"""A model slot around the real executor and the real agent.db: an actor that carries actions out in memory, a store
that refuses some writes, and a clock that is set by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.contract.errors import Unavailable
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import parse_report
from edge_agent.core import events as ev
from edge_agent.core.actions import Action, KeepWorkers, Route, Tell, Verify
from edge_agent.core.lifecycle import Step
from edge_agent.core.state import Known, ModelState, Moment, Settings, persistent_part
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.saved_state import decode_state
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.thread import StoreThread

MODEL = "tiny"
FACTORY = Known("f" * 64, "0.9.0", 1, "i", factory=True)
ONE = Known("1" * 64, "1.0.0", 2, "i")
TWO = Known("2" * 64, "2.0.0", 3, "i")
SETTINGS = Settings(Policy(shadow_s=0.0, share_percents=(), probation_s=10.0, probation_requests_min=0), retry_s=30.0)
Fact = tuple[str | None, ...]


class RefusingStore:
    """The real store, whose writes with these numbers (from 1) find a full disk, and whose disk hangs when told so."""

    def __init__(self, store: AgentStore, refused: Container[int] = ()) -> None:
        self._store = store
        self.refused = refused
        self.writes = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def commit(self, state: ModelState, event: ev.Event, told: tuple[Tell, ...], now: Moment) -> None:
        """Count, wait while the disk hangs, then write or refuse."""
        self.writes += 1
        write = self.writes
        await self.answers.wait()
        if write in self.refused:
            raise Unavailable(f"write {write} finds a full disk", reason=Reason.DISK_FULL)
        await self._store.commit(state, event, told, now)


@dataclass
class Device:
    """Carries actions out at once, in memory; what follows from them waits in `outcomes` for the story to go on.

    saved: at each action, the state document that was on the disk; facts_saved: how many facts were.
    """

    read: Callable[[], tuple[ModelState | None, int]]
    actions: list[Action] = field(default_factory=list)
    saved: list[ModelState | None] = field(default_factory=list)
    facts_saved: list[int] = field(default_factory=list)
    workers: dict[str, str] = field(default_factory=dict)
    outcomes: list[ev.Event] = field(default_factory=list)
    started: int = 0

    def act(self, action: Action) -> None:
        """Note what is on the disk now, then act."""
        state, facts = self.read()
        self.actions.append(action)
        self.saved.append(state)
        self.facts_saved.append(facts)
        match action:
            case KeepWorkers(digests=digests):
                self._keep(list(digests))
            case Route(digest=digest) if digest in self.workers.values():
                self.outcomes.append(ev.Routed(MODEL, str(digest)))
            case Verify(digest=digest):
                self.outcomes.append(ev.VerifyPassed(MODEL, digest))

    def _keep(self, wished: list[str]) -> None:
        for worker, digest in list(self.workers.items()):
            if digest in wished:
                wished.remove(digest)
            else:
                self.end(worker)
        for digest in wished:
            self.started += 1
            self.workers[f"w{self.started}"] = digest
            self.outcomes.append(ev.WorkerUp(MODEL, f"w{self.started}", digest))

    def end(self, worker: str) -> None:
        """This worker is gone."""
        self.outcomes.append(ev.WorkerDied(MODEL, worker, self.workers.pop(worker)))


class Slot:
    """Executor, store, device and clock of one story, on an agent.db in `folder`."""

    def __init__(self, folder: Path, refused: Container[int] = ()) -> None:
        self.now_s = 100.0
        self._path = folder / "agent.db"
        self.thread = StoreThread()
        self.agent = AgentDb(self._path)
        self._reader = AgentDb(self._path, read_only=True)
        self.store = RefusingStore(AgentStore(self.thread, self._path, self.agent, "device"), refused)
        self.device = Device(self.on_disk)
        self.executor = Executor(self.store, self.device, self.clock, [ModelState(MODEL)])
        self.refusals: list[ev.Event] = []

    def clock(self) -> Moment:
        return Moment(self.now_s, int(self.now_s * 1000))

    @property
    def state(self) -> ModelState:
        return self.executor.state(MODEL)

    def on_disk(self) -> tuple[ModelState | None, int]:
        """What a reader of the file finds: the state, and the number of facts."""
        raw = self._reader.states().get(MODEL)
        return (decode_state(raw) if raw else None), self._reader.outbox_count()

    def facts(self) -> list[Fact]:
        """What was told, from the journal; the outbox has to say the same under numbers without holes."""
        lines = [line.entry for line in self._reader.journal(model=MODEL, newest=1_000)]
        facts = [tuple(line[key] for key in ("kind", "version", "phase", "reason")) for line in lines]
        outbox = self._reader.outbox(oldest=1_000)
        assert [number for number, _ in outbox] == list(range(1, len(facts) + 1))
        reports = [parse_report(body) for _, body in outbox]
        assert facts == [(report.kind.value, report.version, report.phase, report.reason) for report in reports]
        return facts

    async def feed(self, *events: ev.Event) -> None:
        """Give events and everything that follows from them, as the runtime does; what a full disk refuses is offered
        a second time, as whoever asked for it would.
        """
        for event in events:
            await self._once_more_if_refused(event)
            while self.device.outcomes:  # each brings the story on; the core's tables end it
                await self._once_more_if_refused(self.device.outcomes.pop(0))

    async def _once_more_if_refused(self, event: ev.Event) -> None:
        before, acted, on_disk = self.state, len(self.device.actions), self.on_disk()
        step: Step = await self.executor.post(event)
        if step.refusal is not None and step.refusal.reason is Reason.DISK_FULL:
            assert not event.safety, f"{event} is about safety and was refused"
            assert (self.state, len(self.device.actions), self.on_disk()) == (before, acted, on_disk)
            assert step.state == before and step.actions == ()
            self.refusals.append(event)
            step = await self.executor.post(event)
        assert step.refusal is None, (event, step.refusal)

    async def bring_in(self, snapshot: Known) -> None:
        """Offered, received, verified, proven, served, and confirmed when its time has passed."""
        await self.feed(ev.OfferBegun(MODEL, snapshot, complete=False, retry=False))
        await self.feed(ev.OfferCompleted(MODEL, snapshot.digest))
        self.now_s += self.state.rules.probation_s
        await self.feed(ev.Woke(MODEL))
        assert self.state.candidate is None and self.state.active == snapshot.digest

    async def lose_workers(self, snapshot: Known) -> None:
        """All workers of a snapshot die."""
        for worker in [worker for worker, digest in self.device.workers.items() if digest == snapshot.digest]:
            self.device.end(worker)
        await self.feed(self.device.outcomes.pop(0))

    def persisted_is_present(self) -> bool:
        """Whether the disk has the present state."""
        return self.on_disk()[0] == persistent_part(self.state)

    def end(self) -> None:
        self.thread.end()
        self.agent.close()
        self._reader.close()


def play(folder: Path, story: Callable[[Slot], Awaitable[None]], refused: Container[int] = ()) -> Slot:
    """Run a story with the executor's own loop beside it. Raises what the loop raises."""
    folder.mkdir(exist_ok=True)
    slot = Slot(folder, refused)

    async def run() -> None:
        running = asyncio.create_task(slot.executor.run())
        telling = asyncio.create_task(_as_coroutine(story(slot)))
        await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, running):
            if task.done():
                task.result()
        for task in (telling, running):
            task.cancel()
        await asyncio.gather(telling, running, return_exceptions=True)

    try:
        asyncio.run(run())
    except BaseException:
        slot.end()
        raise
    return slot


async def _as_coroutine(story: Awaitable[None]) -> None:
    await story


async def serve_two(slot: Slot) -> None:
    await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
    await slot.bring_in(ONE)
    await slot.bring_in(TWO)
