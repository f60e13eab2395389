"""Two ways to the same parts: HTTP first, MQTT while HTTP fails. How each one is asked is its source's own matter.

A download goes on over the other way: what is missing is asked for there, and what came stays.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from edge_agent.contract.transfer import Kind
from edge_agent.sync.http_source import HttpFails
from edge_agent.sync.patience import Troubles
from edge_agent.sync.requests import NotServed, Part, Source

log = structlog.get_logger()

HTTP_AGAIN_BASE_S = 5.0
HTTP_AGAIN_CAP_S = 300.0
TICK_S = 0.01  # a timer may ring a tick of the clock early, and the pause is not over then
SERVER_FAULTS = range(500, 600)
_HTTP = "http"


class Ways:
    """A source over two others; http: None = there is no such way. `open` is set while one may have an answer."""

    def __init__(self, http: Source | None, mqtt: Source) -> None:
        self.open = asyncio.Event()
        self._http = http
        self._mqtt = mqtt
        self._troubles = Troubles()
        self._line_up = False
        self._failed_s = -1.0
        if http is not None:
            self.open.set()

    def note_line(self, up: bool) -> None:
        """The connection to the broker is there, or gone."""
        self._line_up = up
        self._judge()

    def part_bytes(self) -> int:
        """How long a part should be now."""
        return (self._http_now() or self._mqtt).part_bytes()

    async def part(self, kind: Kind, name: str, offset: int, length: int) -> Part:
        """One part, shorter than asked for when the other way takes it in smaller ones. Raises as the sources do."""
        http = self._http_now()
        if http is not None:
            asked_s = _now_s()
            try:
                part = await http.part(kind, name, offset, length)
            except (HttpFails, NotServed) as error:
                if isinstance(error, NotServed) and error.status not in SERVER_FAULTS:
                    raise
                self._note_failure(asked_s, error)
            else:
                self._troubles = self._troubles.cleared(_HTTP)
                return part
        return await self._mqtt.part(kind, name, offset, min(length, self._mqtt.part_bytes()))

    def _http_now(self) -> Source | None:
        return self._http if self._troubles.wait_s(_HTTP, _now_s()) == 0 else None

    def _note_failure(self, asked_s: float, error: Exception) -> None:
        """Not tried for a while; of several that were under way together the first one counts."""
        if self._failed_s < asked_s:
            now_s = self._failed_s = _now_s()
            self._troubles = self._troubles.noted(
                _HTTP, now_s, random.random(), base_s=HTTP_AGAIN_BASE_S, cap_s=HTTP_AGAIN_CAP_S
            )
            wait_s = self._troubles.wait_s(_HTTP, now_s)
            log.warning("http_fails", detail=str(error), again_in_s=round(wait_s, 2))
            asyncio.get_running_loop().call_later(wait_s + TICK_S, self._judge)
        self._judge()

    def _judge(self) -> None:
        if self._line_up or self._http_now() is not None:
            self.open.set()
        else:
            self.open.clear()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
