"""One device: its power, its runtime, what its operator and its surroundings do to it. Decisions are the real
executor's and core's; what has to hold is in `invariants`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_agent.contract import limits
from edge_agent.contract.errors import Bug, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.actions import Action, DropOffer, KeepWorkers, Route, Verify
from edge_agent.core.assignment import wants
from edge_agent.core.lifecycle import Step
from edge_agent.core.state import ModelState, Moment, Settings
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.retention import removable
from tests.simulation import invariants
from tests.simulation.desk import Desk
from tests.simulation.engine import Engines, Front
from tests.simulation.faults import MODEL, Nature, Release
from tests.simulation.link import Link
from tests.simulation.store import Disk, Store

if TYPE_CHECKING:
    from tests.simulation.world import World

WALL_MS = 1_790_000_000_000
HEARTBEAT_S = 5.0
SCRUB_S = 20.0


class Watched(Executor):
    """The executor, looked at after each step. handling, decided_s: the event and when it was decided (monotonic)."""

    def __init__(self, device: Device, store: Store, state: ModelState) -> None:
        super().__init__(store, device, device.moment, (state,))
        self._device = device
        self.handling: ev.Event | None = None
        self.decided_s = 0.0

    async def handle(self, event: ev.Event) -> Step:
        """As it is, and then the invariants."""
        old = self.state(event.model)
        self.handling, self.decided_s = event, self._device.now_s()
        try:
            step = await super().handle(event)
        except Bug as bug:
            self._device.world.broken("no_fault", f"{self._device.name}: {bug.message}")
            raise
        self._device.after_step(old, event, step)
        return step


class Device:
    """A device with one slot. `boot` counts starts of the runtime; whatever an earlier one has begun does nothing."""

    executor: Watched
    store: Store

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.chance = world.chance.of(name)
        self.disk = Disk(world.setting.releases[0] if world.setting.factories else None)
        self.engines, self.front = Engines(self), Front(self)
        self.desk = Desk(self)
        self.link = Link(world.setting, self.chance.of("link"))
        self.ledger = invariants.Ledger()
        self.boot = 0
        self.is_up = False
        self.is_quiet = name in world.setting.quiet
        self.not_now: Reason | None = None
        self.said = 0
        self._natures = {release.digest: release.nature_on(name) for release in world.setting.releases}
        self._powered_s = -10.0
        self._wall_skew_ms = 0
        self._running: asyncio.Task[None] | None = None
        self._retaining: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    # ---- time

    def moment(self) -> Moment:
        """Monotonic time begins anew with the power; the wall clock is anybody's."""
        now_s = self._loop.time()
        return Moment(now_s - self._powered_s, max(0, WALL_MS + int(now_s * 1000) + self._wall_skew_ms))

    def now_s(self) -> float:
        """Monotonic seconds."""
        return self._loop.time() - self._powered_s

    def later(self, pause_s: float, what: Callable[..., Any], *of: Any) -> None:
        """Unless the runtime has ended by then."""
        boot = self.boot

        def do() -> None:
            if self.is_up and self.boot == boot:
                what(*of)

        self._loop.call_later(pause_s, do)

    def jump_clock(self, by_s: int) -> None:
        """The wall clock is set."""
        self._wall_skew_ms += by_s * 1000

    # ---- life and death

    def start(self) -> None:
        """The runtime starts: what the disk still holds, and the workers that live on."""
        self.boot += 1
        self.is_up = True
        saved = self.disk.load()
        self.store = Store(self, self.chance.of(f"store/{self.boot}"))
        self.executor = Watched(self, self.store, saved or ModelState(MODEL))
        self.executor.storage_reason = self.disk.refuses
        live = self.engines.live()
        known = self.disk.scan()
        here = {one.digest for one in known}
        invariants.begin_boot(self, saved, live)
        self._running = self._loop.create_task(self.executor.run())
        settings = Settings(self.world.setting.policy, retry_s=self.world.setting.retry_s)
        self.post(ev.Booted(MODEL, settings, known, tuple(worker for worker in live if worker.digest in here)))
        if self.not_now is not None:
            self.post(ev.ConditionsSeen(MODEL, self.not_now))
        self.front.begin()
        self.desk.begin()
        self.later(self.chance.between(1, 1000), self._heartbeat)
        self.later(SCRUB_S, self._scrub)
        self.later(limits.RETENTION_PAUSE_S, self._retain)

    def cut_soon(self) -> None:
        """The power goes with whatever is next."""
        if self.is_up:
            boot = self.boot
            self._loop.call_soon(lambda: self.power_cut() if self.boot == boot else None)

    def power_cut(self) -> None:
        """Everything is gone but the disk; it comes back after a while."""
        if self.is_up:
            self.tell("POWER CUT")
            self._end_runtime()
            self.engines.end_all()
            self._loop.call_later(self.chance.between(500, 5000), self._power_up)

    def _power_up(self) -> None:
        self._powered_s = self._loop.time() - self.chance.between(1000, 9000)
        self.tell("power is back")
        self.start()

    def kill_runtime(self) -> None:
        """Its children live on."""
        if self.is_up:
            self.tell("runtime killed")
            self._end_runtime()
            self.engines.runtime_gone()
            self._loop.call_later(self.chance.between(100, 3000), self.start)

    def restart_cleanly(self) -> None:
        """It is asked to end; that it was is saved, if the disk lets it."""
        if self.is_up:
            self.tell("asked to stop")
            self.post(ev.Stopping(MODEL)).add_done_callback(self._stopped)

    def _stopped(self, stopping: asyncio.Future[Step]) -> None:
        if self.is_up and not stopping.cancelled():
            self.tell("stopped")
            self._end_runtime()
            self.engines.end_all()
            self._loop.call_later(self.chance.between(500, 5000), self.start)

    def _end_runtime(self) -> None:
        self.is_up = False
        self.store.power_goes()
        invariants.end_boot(self)
        self._cancel()

    def _cancel(self) -> list[asyncio.Task[Any]]:
        tasks = [task for task in (self._running, self._retaining, self.desk.offering) if task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    def end(self) -> list[asyncio.Task[Any]]:
        """The world ends; what has to be awaited."""
        self.is_up = False
        return self._cancel()

    # ---- events and actions

    def post(self, event: ev.Event) -> asyncio.Future[Step]:
        """Tell the executor, if there is one."""
        try:
            return self.executor.post(event)
        except Unavailable as error:
            self.world.broken("no_fault", f"{self.name}: {error}")
            return self._loop.create_future()

    def act(self, action: Action) -> None:
        """The executor's actor."""
        if not self.is_up:
            return
        invariants.check_act(self, action)
        match action:
            case KeepWorkers():
                self.engines.keep(action.digests)
            case Route():
                self.front.set_route(action)
            case Verify():
                self.later(self.chance.between(10, 800), self._verify, action.digest)
            case DropOffer():
                self.disk.offers.discard(action.digest)

    def _verify(self, digest: str) -> None:
        stored = self.disk.snapshots.get(digest)
        if stored is None or not (stored.whole or stored.factory):
            if stored is not None and stored.rotten:
                stored.rotten, stored.missing = False, True
            self.post(ev.VerifyFailed(MODEL, digest, Reason.DAMAGE, "damaged"))
        else:
            self.post(ev.VerifyPassed(MODEL, digest))

    def after_step(self, old: ModelState, event: ev.Event, step: Step) -> None:
        """Told and judged."""
        new = step.state
        if step.refusal is None and new is old and not step.actions:
            return
        refused = f" refused: {step.refusal.reason.value}" if step.refusal else ""
        if refused or not isinstance(event, ev.Observed) or new.phase is not old.phase:
            self.tell(f"{_words(event)}{refused} -> {self.world.describe(new)}")
        invariants.after_step(self, old, event, step)

    def on_routed(self, route: Route) -> None:
        """Requests go there from now on."""
        invariants.check_routed(self, route)

    def nature(self, digest: str) -> Nature:
        """What this snapshot does here."""
        return self._natures[digest]

    def release(self, digest: str) -> Release:
        """The release of this digest."""
        return self.world.release(digest)

    def tell(self, text: str) -> None:
        """A line of the story."""
        self.world.tell(self.name, text)

    # ---- what comes back again and again

    def _heartbeat(self) -> None:
        self.later(HEARTBEAT_S, self._heartbeat)
        self.world.coordinator.hear(self)
        wished = () if self.link.parted else wants(self.executor.state(MODEL))
        if wished:
            self.desk.offer(self.release(wished[0].digest), retry=False, by_line=True)

    def _scrub(self) -> None:
        self.later(SCRUB_S, self._scrub)
        for digest, stored in self.disk.snapshots.items():
            known = self.executor.state(MODEL).find(digest)
            if stored.rotten and not stored.factory:
                stored.rotten, stored.missing = False, True
            if stored.missing and known is not None and not known.damaged:
                self.post(ev.DamageFound(MODEL, digest, 1))

    def _retain(self) -> None:
        self.later(limits.RETENTION_PAUSE_S, self._retain)
        self._retaining = self._loop.create_task(self._remove_surplus(self.boot))

    async def _remove_surplus(self, boot: int) -> None:
        """As `Retention.keep_within_budget`, with a budget of so many snapshots."""
        state = self.executor.state(MODEL)
        for digest in removable(state):
            if len(state.known) <= self.world.setting.kept_max:
                return
            try:
                step = await self.executor.post(ev.Forgotten(MODEL, digest))
            except Unavailable:
                return
            if not self.is_up or self.boot != boot:
                return
            state = step.state
            if step.refusal is None and not self.disk.hangs and self.disk.refuses is None:
                invariants.check_removal(self, digest)
                self.tell(f"removed {self.world.name_of(digest)}")
                self.disk.snapshots.pop(digest, None)


def _words(event: ev.Event) -> str:
    """An event in a few words."""
    digest = getattr(event, "digest", None) or getattr(getattr(event, "snapshot", None), "digest", None)
    parts = [type(event).__name__]
    if digest:
        parts.append(digest[:6])
    for name in ("version", "reason", "fingerprint", "not_now", "percent", "generation"):
        value = getattr(event, name, None)
        if value is not None:
            parts.append(f"{name}={value}")
    return " ".join(parts)
