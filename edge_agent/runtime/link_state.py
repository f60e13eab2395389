"""What the sync process says of its connection, for the operator's eyes only: nothing is decided by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_agent.core.state import Moment


class LinkState:
    """Connected or not, since when, and why not."""

    def __init__(self, clock: Callable[[], Moment], *, configured: bool) -> None:
        self._clock = clock
        self._configured = configured
        self.connected = False
        self._detail = "" if configured else "no [sync] broker in agent.toml"
        self._since_unix_ms = clock().unix_ms

    def said(self, *, connected: bool, detail: str) -> None:
        """The process says so, or it ended and the runtime says so.

        detail ends on an operator's terminal: what could move its cursor or break its line is left out.
        """
        if connected != self.connected:
            self._since_unix_ms = self._clock().unix_ms
        self.connected = connected
        self._detail = "".join(c if c.isprintable() else " " for c in detail)

    def document(self) -> dict[str, Any]:
        """`since`: Unix seconds of the last change between connected and not."""
        return {
            "configured": self._configured,
            "connected": self.connected,
            "since": self._since_unix_ms / 1000,
            "detail": self._detail,
        }
