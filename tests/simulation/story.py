"""The trace of a run: lines for people, and the digest that every machine agrees on. What is wrong is `invariants`'."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

LINES_KEPT = 40


class Story:
    """`tell` hashes each line and keeps the last ones; `show` sees them all."""

    def __init__(self, show: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.sha256()
        self._show = show
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.steps = 0

    def tell(self, now_s: float, who: str, text: str) -> None:
        """One line."""
        line = f"{now_s:9.3f} {who:<5} {text}"
        self.steps += 1
        self._hash.update(line.encode())
        self.lines.append(line)
        if self._show is not None:
            self._show(line)

    @property
    def digest(self) -> str:
        """Of all lines so far."""
        return self._hash.hexdigest()[:16]
