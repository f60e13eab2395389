"""Counts what is thrown away and logs it now and then: a flood of nonsense must not become a flood of log lines.

What is nonsense is decided by whoever takes the message.
"""

from __future__ import annotations

import time
from collections import Counter

import structlog

log = structlog.get_logger()

LOG_EVERY_S = 30.0  # for each kind
DETAIL_CHARS = 200


class Tally:
    """One for the process. Kinds are words of this package, so that there are few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._next_log_s: dict[str, float] = {}

    def note(self, kind: str, detail: str) -> None:
        """Something of this kind was thrown away."""
        self.counts[kind] += 1
        now_s = time.monotonic()
        if now_s >= self._next_log_s.get(kind, 0.0):
            self._next_log_s[kind] = now_s + LOG_EVERY_S
            log.warning("thrown_away", what=kind, so_far=self.counts[kind], detail=detail[:DETAIL_CHARS])
