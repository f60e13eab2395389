"""An event loop whose time is virtual: with nothing ready it is the time of the next timer. No sockets, no threads."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine
from typing import Any

PASS_US = 1  # a pass of the loop takes time, as everywhere: who polls does not stop the clock


class Stuck(Exception):
    """Everything waits and nothing is due: nobody will ever go on."""


class _NeverWaits:
    """In the place of a selector: waiting is only a step of the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[Any]:
        """Nothing is ever ready. Raises Stuck when there is no timer either."""
        if timeout_s is None:
            raise Stuck("no timer is set and nothing is ready")
        self._loop.now_us += max(PASS_US, math.ceil(timeout_s * 1e6))
        return []

    def close(self) -> None:
        """Nothing to close."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs the executor's own coroutines, as fast as they can be computed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0
        self._selector = _NeverWaits(self)

    def time(self) -> float:
        """Virtual seconds."""
        return self.now_us / 1e6

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


def run(story: Coroutine[Any, Any, Any], loop: VirtualLoop) -> Any:
    """Run it to its end. Raises what it raises."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(story)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class Chance(random.Random):
    """One stream of chance; `of` begins another one by name, so that a draw more here changes nothing there."""

    def __init__(self, name: str) -> None:
        super().__init__(name)  # of a text: the same on every machine, whatever its hashes
        self.name = name

    def of(self, name: str) -> Chance:
        """An independent stream."""
        return Chance(f"{self.name}/{name}")

    def one_in(self, count: int) -> bool:
        """True once in so many, never for 0."""
        return count > 0 and self.randrange(count) == 0

    def between(self, low_ms: int, high_ms: int) -> float:
        """Seconds, of whole milliseconds."""
        return self.randint(low_ms, high_ms) / 1000
