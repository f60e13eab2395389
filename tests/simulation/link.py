"""The line between devices and coordinator: messages are lost, late, doubled and out of order, or nothing passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.simulation.faults import Setting
from tests.simulation.loop import Chance


class Link:
    """One device's. parted: nothing passes, either way. calm: nothing is lost or doubled any more."""

    def __init__(self, setting: Setting, chance: Chance) -> None:
        self._setting, self._chance = setting, chance
        self.parted = False
        self.calm = False

    def send(self, deliver: Callable[[], None]) -> None:
        """Delivered later: never, once or twice, perhaps after what was sent later."""
        if self.parted:
            return
        losses, doubles = (0, 0) if self.calm else (self._setting.loss, self._setting.doubles)
        for _ in range(2 if self._chance.one_in(doubles) else 1):
            if not self._chance.one_in(losses):
                delay_s = self._chance.between(1, 20 if self.calm else self._setting.delay_ms)
                asyncio.get_running_loop().call_later(delay_s, self._arrive, deliver)

    def _arrive(self, deliver: Callable[[], None]) -> None:
        if not self.parted:
            deliver()
