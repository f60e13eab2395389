"""Asking the coordinator for parts: correlation, time-outs, retries, bounded bytes in flight; the port for sources of
bulk data. How much may be in flight is `pace`'s to say, whole things are put together in `fetching`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from edge_agent.contract import canonical
from edge_agent.contract.errors import Unavailable
from edge_agent.contract.topics import GET
from edge_agent.contract.transfer import STATUS, TOTAL_BYTES, Get, Kind, Status
from edge_agent.sync import pace
from edge_agent.sync.line import LineCut, Message
from edge_agent.sync.patience import pause_s
from edge_agent.sync.tally import Tally

TRIES_MAX = 4
RETRY_BASE_S = 0.5
RETRY_CAP_S = 5.0


class NotServed(Unavailable):
    """The coordinator does not give this. status: as in `contract.transfer`, or one that this version does not know."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"the coordinator answered {status} to {what}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Part:
    """An answer with status 200. total_bytes: of the whole thing."""

    data: bytes
    total_bytes: int


class Source(Protocol):
    """Where parts come from."""

    def part_bytes(self) -> int:
        """How long a part should be now."""

    async def part(self, kind: Kind, name: str, offset: int, length: int) -> Part:
        """One part. Raises NotServed, LineCut, and Unavailable when no answer comes."""


class MqttSource:
    """Parts by messages. `take` is the handler of answers; `cut` tells that the connection is gone."""

    def __init__(self, publish: Callable[..., Awaitable[None]], tally: Tally) -> None:
        self._publish = publish
        self._tally = tally
        self._pace = pace.Pace()
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_bytes(4)  # answers to an earlier process are not taken for ours
        self._asked: dict[bytes, asyncio.Future[Message]] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    def part_bytes(self) -> int:
        """How long a part should be now."""
        return pace.part_bytes(self._pace)

    async def part(self, kind: Kind, name: str, offset: int, length: int) -> Part:
        """One part, asked for at most TRIES_MAX times. Raises NotServed, LineCut, Unavailable."""
        get = canonical.encode(Get(kind, name, offset, length))
        what = f"{kind} {name} at {offset}"
        later = None
        for attempt in range(TRIES_MAX):
            if attempt:
                await asyncio.sleep(pause_s(attempt - 1, random.random(), base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S))
            answer = await self._once(get, length)
            if answer is None:
                continue
            status, total = _number(answer.words, STATUS), _number(answer.words, TOTAL_BYTES)
            if status == Status.OK and total is not None and len(answer.payload) <= min(length, max(0, total - offset)):
                return Part(answer.payload, total)
            if status is None or status == Status.OK:
                self._tally.note("malformed", f"answer to {what}: {dict(answer.words)!r:.100}")
            elif status != Status.TRY_LATER:
                raise NotServed(status, what)
            later = NotServed(status or Status.TRY_LATER, what)
        raise later or Unavailable(f"no answer to {what} after {TRIES_MAX} tries")

    def take(self, message: Message) -> None:
        """An answer came; to a question that nobody waits for any more it is counted and gone."""
        asked = self._asked.pop(message.correlation, None)
        if asked is None or asked.done():
            self._tally.note("unasked", f"an answer of {len(message.payload)} bytes that nobody waits for")
        else:
            asked.set_result(message)

    def cut(self) -> None:
        """The connection is gone, and with it all answers; what waits for room fails too."""
        waiting: list[asyncio.Future[Any]] = [*self._asked.values(), *self._waiting]
        for future in waiting:
            if not future.done():
                future.set_exception(LineCut("the connection ended before the answer came"))
        self._asked.clear()
        self._waiting.clear()
        self._pace = pace.after_cut(self._pace)

    async def _once(self, get: bytes, length: int) -> Message | None:
        """One question; None when no answer comes in time. Raises LineCut."""
        await self._room(length)
        loop = asyncio.get_running_loop()
        correlation = self._prefix + next(self._numbers).to_bytes(8, "big")
        answered: asyncio.Future[Message] = loop.create_future()
        self._asked[correlation] = answered
        asked_s = loop.time()
        self._pace = pace.with_asked(self._pace, length, asked_s)
        self._let_in()
        try:
            async with asyncio.timeout(pace.timeout_s(self._pace)):
                await self._publish(GET, get, correlation=correlation)
                message = await answered
        except TimeoutError:
            self._pace = pace.with_lost(self._pace, length)
            return None
        except BaseException:  # a cut, or nobody wants it any more
            self._pace = pace.with_given_up(self._pace, length)
            raise
        finally:
            self._asked.pop(correlation, None)
            self._let_in()
        now_s = loop.time()
        self._pace = pace.with_arrived(self._pace, length, len(message.payload), now_s - asked_s, now_s)
        self._let_in()
        return message

    async def _room(self, length: int) -> None:
        """Wait in turn until a part of this length may be asked for. Raises LineCut."""
        behind = bool(self._waiting)
        while behind or not pace.has_room(self._pace, length):  # each pass waits for an answer or a time-out
            self._pace = pace.with_held_up(self._pace)
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if behind:
                self._waiting.append(turn)
            else:
                self._waiting.appendleft(turn)  # it had its turn, and there was too little room
            behind = False
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._let_in()  # the turn was ours, and we do not take it
                raise

    def _let_in(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def _number(words: object, key: str) -> int | None:
    text = words.get(key, "") if isinstance(words, dict) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None
