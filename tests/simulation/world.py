"""A fleet, its surroundings and its operators, from a seed to a verdict. Each device's own part is in `device`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from cloud_sync.core.fleet import Kind, Strategy
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.state import ModelState
from tests.simulation.coordinator import Coordinator
from tests.simulation.device import Device
from tests.simulation.faults import FAULTS, MODEL, Release, Setting, setting_of
from tests.simulation.goals import GOAL_S, why_not_yet
from tests.simulation.loop import Chance, VirtualLoop, run
from tests.simulation.story import Story

LOOK_S = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a seed ended. broken: name of the invariant, or "liveness", None = all held. device_s: simulated seconds
    times devices.
    """

    seed: int
    broken: str | None
    detail: str
    digest: str
    steps: int
    device_s: float
    lines: tuple[str, ...]


class World:
    """One run."""

    coordinator: Coordinator

    def __init__(self, setting: Setting, loop: VirtualLoop, story: Story) -> None:
        self.setting = setting
        self.chance = Chance(f"holdfast/{setting.seed}")
        self.story = story
        self.faulty = True
        self.minimum = Policy()
        self.devices: list[Device] = []
        self.first: tuple[str, str] | None = None
        self._loop = loop
        self._over = asyncio.Event()
        self._releases = {release.digest: release for release in setting.releases}

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def tell(self, who: str, text: str) -> None:
        """A line of the story."""
        self.story.tell(self._loop.time(), who, text)

    def broken(self, name: str, detail: str) -> None:
        """An invariant does not hold: the first one counts, and ends it all."""
        if self.first is None:
            self.first = (name, detail)
            self.tell("", f"BROKEN {name}: {detail}")
            self._over.set()

    def release(self, digest: str) -> Release:
        """By its digest."""
        return self._releases[digest]

    def name_of(self, digest: str | None) -> str:
        """A version for people."""
        return self._releases[digest].known.version if digest in self._releases else str(digest)

    def describe(self, state: ModelState) -> str:
        """What serves, what is tried and why, in a few words."""
        words = [state.status.value, self.name_of(state.active) if state.active else "nothing"]
        if state.raising:
            words.append(f"raising {self.name_of(state.raising)}")
        if state.candidate:
            share = "" if state.candidate.share_percent is None else f" {state.candidate.share_percent}%"
            words.append(f"{state.candidate.snapshot.version} {state.phase.value}{share}")
        if state.fallback_reason:
            words.append(f"because {state.fallback_reason.value}")
        return ", ".join(words)

    # ---- a run

    async def live(self) -> None:
        """Faults, then none, then the goal."""
        self.coordinator = Coordinator(self)
        self.devices = [Device(self, name) for name in self.setting.devices]
        for device in self.devices:
            self._loop.call_later(device.chance.between(0, 2000), device.start)
            self._loop.call_later(float(self.setting.fault_every_s), self._misfortune, device)
        self._loop.call_later(3.0, self._operate)
        self._loop.call_later(self.setting.lasts_s / 3, self._state_minimum)
        await self._pause(float(self.setting.lasts_s))
        self._calm()
        await self._until_reached()
        ending = [task for device in self.devices for task in device.end()]
        await asyncio.gather(*ending, return_exceptions=True)

    async def _pause(self, pause_s: float) -> None:
        waker = self._loop.call_later(pause_s, self._over.set)
        await self._over.wait()
        waker.cancel()
        if self.first is None:
            self._over.clear()

    async def _until_reached(self) -> None:
        ends_s = self.now_s() + GOAL_S
        while self.first is None:  # ends with the goal, or at its time
            await self._pause(LOOK_S)
            missing = [f"{device.name}: {why}" for device in self.devices if (why := why_not_yet(device)) is not None]
            if not missing:
                return
            if self.now_s() > ends_s:
                self.broken("liveness", f"{missing[0]}, {GOAL_S:.0f} s after the last fault")

    def _calm(self) -> None:
        self.faulty = False
        self.tell("", "nothing fails any more")
        for device in self.devices:
            device.disk.heal()
            device.link.parted, device.link.calm = False, True
            if device.not_now is not None:
                device.not_now = None
                if device.is_up:
                    device.post(ev.ConditionsSeen(MODEL, None))

    def _state_minimum(self) -> None:
        self.minimum = self.setting.minimum

    # ---- operators of the fleet

    def _operate(self) -> None:
        if not self.faulty:
            return
        chance = self.chance.of(f"operate/{self.now_s():.3f}")
        self._loop.call_later(chance.between(2000, self.setting.wish_every_s * 1000), self._operate)
        release = chance.choice(self.setting.releases)
        strategy = chance.choice((Strategy.ALL, Strategy.ONE))
        names = self.setting.devices
        some = frozenset(chance.sample(names, chance.randint(1, min(len(names), 3))))
        kind = Kind.ROLLBACK if chance.one_in(4) else Kind.ROLLOUT
        self.coordinator.wish(release, strategy, some if chance.one_in(4) else None, kind)

    # ---- misfortune

    def _misfortune(self, device: Device) -> None:
        if not self.faulty:
            return
        self._loop.call_later(float(self.setting.fault_every_s), self._misfortune, device)
        weights = self.setting.weights
        total = sum(weights.values())
        if not total or not device.is_up or device.chance.one_in(3):
            return
        drawn = device.chance.randrange(total)
        for fault in FAULTS:
            drawn -= weights[fault]
            if drawn < 0:
                _HAPPENS[fault](device, device.chance.between(200, 15_000))
                return


def _disk_refuses(reason: Reason) -> Callable[[Device, float], None]:
    def happen(device: Device, lasts_s: float) -> None:
        device.tell(f"disk: {reason.value} for {lasts_s:.1f} s")
        device.disk.refuses = reason
        _mend(device, lasts_s)

    return happen


def _disk_hangs(device: Device, lasts_s: float) -> None:
    device.tell(f"disk hangs for {lasts_s:.1f} s")
    device.disk.hang()
    _mend(device, lasts_s)


def _mend(device: Device, lasts_s: float) -> None:
    asyncio.get_running_loop().call_later(lasts_s, device.disk.heal)


def _rots(device: Device, *, evidence: bool) -> None:
    mine = [one for one in device.disk.snapshots.values() if not one.factory]
    if mine:
        stored = device.chance.choice(mine)
        device.ledger.harmed.add(stored.release.digest)
        device.tell(f"{'evidence' if evidence else 'a chunk'} of {stored.release.known.version} rots")
        if evidence:
            stored.evidence_rotten = True
        else:
            stored.rotten = True


def _worker_ends(device: Device, fingerprint: str | None) -> None:
    workers = device.engines.up()
    if workers:
        device.tell("a worker is killed" if fingerprint is None else "a worker crashes")
        device.engines.die(device.chance.choice(workers), fingerprint)


def _partition(device: Device, lasts_s: float) -> None:
    device.tell(f"no line for {lasts_s * 4:.1f} s")
    device.link.parted = True

    def joined() -> None:
        device.link.parted = False

    asyncio.get_running_loop().call_later(lasts_s * 4, joined)


def _jump(device: Device, lasts_s: float) -> None:
    by_s = device.chance.choice((-400_000_000, -3600, 3600, 100_000_000))
    device.tell(f"wall clock jumps by {by_s} s")
    device.jump_clock(by_s)


def _conditions(device: Device, lasts_s: float) -> None:
    device.not_now = Reason.LOW_BATTERY if device.not_now is None else None
    device.post(ev.ConditionsSeen(MODEL, device.not_now))


def _choose(event: Callable[[str, str | None], ev.Event]) -> Callable[[Device, float], None]:
    def happen(device: Device, lasts_s: float) -> None:
        versions = [known.version for known in device.executor.state(MODEL).known]
        version = device.chance.choice([None, *versions])
        device.post(event(MODEL, version))

    return happen


def _import(device: Device, lasts_s: float) -> None:
    release = device.chance.choice(device.world.setting.releases)
    device.tell(f"somebody imports {release.known.version}")
    device.desk.offer(release, retry=device.chance.one_in(2), by_line=False)


_HAPPENS: dict[str, Callable[[Device, float], Any]] = {
    "power_cut": lambda device, _: device.power_cut(),
    "runtime_killed": lambda device, _: device.kill_runtime(),
    "clean_restart": lambda device, _: device.restart_cleanly(),
    "disk_full": _disk_refuses(Reason.DISK_FULL),
    "disk_read_only": _disk_refuses(Reason.READ_ONLY),
    "disk_hangs": _disk_hangs,
    "chunk_rots": lambda device, _: _rots(device, evidence=False),
    "evidence_rots": lambda device, _: _rots(device, evidence=True),
    "worker_killed": lambda device, _: _worker_ends(device, None),
    "worker_crashes": lambda device, _: _worker_ends(device, ""),
    "partition": _partition,
    "clock_jumps": _jump,
    "conditions": _conditions,
    "rollback": _choose(ev.RollbackAsked),
    "pin": _choose(ev.PinAsked),
    "unpin": lambda device, _: device.post(ev.UnpinAsked(MODEL)),
    "import": _import,
}


def simulate(seed: int, show: Callable[[str], None] | None = None) -> Verdict:
    """The whole life of a seed."""
    loop = VirtualLoop()
    story = Story(show)
    world = World(setting_of(seed), loop, story)

    def fail(_: object, context: dict[str, Any]) -> None:
        if "handle" in context:  # of a callback; what a task raises is awaited
            world.broken("no_error", f"{context['message']}: {context.get('exception')!r}")

    loop.set_exception_handler(fail)
    logging = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # the story is told here
    try:
        run(world.live(), loop)
    finally:
        structlog.configure(**logging)
    name, detail = world.first or (None, "")
    device_s = loop.time() * len(world.devices)
    return Verdict(seed, name, detail, story.digest, story.steps, device_s, tuple(story.lines))
