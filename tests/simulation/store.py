"""A disk with a store on it, as AgentStore and Library keep them: a state, an outbox with numbers, a mark, snapshots.
When it fails is the world's matter; what survives a power cut is decided here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_agent.contract.errors import Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core.actions import Tell
from edge_agent.core.events import Event
from edge_agent.core.state import Known, ModelState, Moment
from edge_agent.runtime.saved_state import decode_state, encode_state
from tests.simulation.faults import Release
from tests.simulation.loop import Chance

if TYPE_CHECKING:
    from tests.simulation.device import Device


@dataclass
class Stored:
    """A snapshot's rows. rotten: chunks are damaged and nobody knows; missing: they were found and discarded."""

    release: Release
    factory: bool = False
    rotten: bool = False
    missing: bool = False
    evidence_rotten: bool = False

    @property
    def whole(self) -> bool:
        """Whether every byte is right."""
        return not (self.rotten or self.missing or self.evidence_rotten)


class Disk:
    """Outlives every boot. history: each fact of the outbox, its number is its place and one; never lost once it is
    there.
    """

    def __init__(self, factory: Release | None) -> None:
        self.raw: bytes | None = None
        self.state: ModelState | None = None
        self.history: list[Tell] = []
        self.acknowledged = 0
        self.mark = (0, 0)
        self.snapshots: dict[str, Stored] = {}
        self.offers: set[str] = set()
        self.refuses: Reason | None = None
        self.hangs = False
        self.answering = asyncio.Event()
        self.under_way: tuple[ModelState, tuple[Tell, ...]] | None = None
        if factory is not None:
            self.snapshots[factory.digest] = Stored(factory, factory=True)

    def heal(self) -> None:
        """It works again; what hung is written."""
        self.refuses, self.hangs = None, False
        self.answering.set()

    def hang(self) -> None:
        """Nothing comes back from now on."""
        if not self.hangs:
            self.hangs, self.answering = True, asyncio.Event()

    def check(self) -> None:
        """Raises Unavailable when nothing can be written now."""
        if self.hangs:
            raise Unavailable("hangs", reason=Reason.DISK_HANGS)
        if self.refuses is not None:
            raise Unavailable("refuses", reason=self.refuses)

    def write(self, state: ModelState, told: tuple[Tell, ...]) -> None:
        """One transaction."""
        self.raw, self.state = encode_state(state), state
        self.history += told
        self.under_way = None

    def load(self) -> ModelState | None:
        """What a boot reads."""
        return decode_state(self.raw) if self.raw is not None else None

    def scan(self) -> tuple[Known, ...]:
        """The snapshots whose evidence verifies; chunks that were discarded are missing, rot is not seen yet."""
        return tuple(
            replace(one.release.known, factory=one.factory, damaged=one.missing and not one.factory)
            for one in self.snapshots.values()
            if not one.evidence_rotten
        )

    def batch(self) -> tuple[int, tuple[Tell, ...]]:
        """The acknowledged number, and the oldest reports that are not acknowledged."""
        return self.acknowledged, tuple(self.history[self.acknowledged : self.acknowledged + 20])


class Store:
    """The executor's store in one life of the runtime. told: facts that it has written."""

    def __init__(self, device: Device, chance: Chance) -> None:
        self._device, self._disk, self._chance = device, device.disk, chance
        self.told: list[Tell] = []
        self._is_over = False

    async def commit(self, state: ModelState, event: Event, told: tuple[Tell, ...], now: Moment) -> None:
        """Raises Unavailable (disk_full, read_only); returns late when the disk hangs."""
        world = self._device.world
        self._disk.under_way = (state, told)
        cut = world.faulty and self._chance.one_in(world.setting.cut_at_write)
        if self._disk.hangs:
            await self._disk.answering.wait()
        if cut:
            self._device.cut_soon()
            await asyncio.sleep(1)  # power goes first
        elif self._chance.one_in(8):
            await asyncio.sleep(self._chance.between(1, 1500))
        if self._is_over:
            return  # too late: whether it was written was decided when the power went
        if self._disk.refuses is not None:
            self._disk.under_way = None
            raise Unavailable("refuses", reason=self._disk.refuses)
        self._disk.write(state, told)
        self.told += told
        if self._chance.one_in(16):
            await asyncio.sleep(self._chance.between(1, 100))

    def power_goes(self) -> None:
        """What was under way and not acknowledged is there, or not."""
        self._is_over = True
        lost, self._disk.under_way = self._disk.under_way, None
        if lost is not None and self._disk.refuses is None and self._chance.one_in(2):
            self._disk.write(*lost)
