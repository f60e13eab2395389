"""Few lines in the log however much one device says: a structlog processor. What is worth saying is said elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog

LINES_MAX = 20  # of one kind about one device, in a window
WINDOW_S = 60.0
KEYS_MAX = 50_000  # kinds times devices; beyond, the count begins anew


@dataclass
class _Window:
    """What was said about one device in this time, and what was not."""

    began_s: float
    said: int = 0
    unsaid: int = 0


class Sparing:
    """Drops lines about one device that come too often; the first one of the next window tells how many (`unsaid`)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Raises structlog.DropEvent for a line too many."""
        device = event.get("device")
        if device is None:
            return event
        key, now_s = (str(event.get("event")), str(device)), self._clock()
        window = self._windows.get(key)
        if window is None or now_s - window.began_s >= WINDOW_S:
            if len(self._windows) >= KEYS_MAX:
                self._windows.clear()
            if window is not None and window.unsaid:
                event["unsaid"] = window.unsaid
            window = self._windows[key] = _Window(now_s)
        if window.said >= LINES_MAX:
            window.unsaid += 1
            raise structlog.DropEvent
        window.said += 1
        return event
