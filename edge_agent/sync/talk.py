"""The conversation on one connection, and what comes in between: hello, presence, state, reports, assignments and
acknowledgements. Nothing is kept here but the newest of each; the runtime has the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from edge_agent.contract import canonical
from edge_agent.contract.envelope import SignedKind
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.presence import CONTRACT_VERSIONS, Hello, Presence, parse_coordinator_here
from edge_agent.contract.reasons import Reason
from edge_agent.contract.topics import HELLO, PRESENCE, REPORTS, STATE
from edge_agent.sync.fetching import together
from edge_agent.sync.line import Line, Message, Will, new_connection_id
from edge_agent.sync.link import RuntimeGone, RuntimeLink, Session
from edge_agent.sync.patience import pause_s
from edge_agent.sync.tally import Tally

log = structlog.get_logger()

STATE_EVERY_S = 60.0  # the sign of life: "last heard"
STATE_PAUSE_S = 0.2  # changes within this time are one message
RESEND_BASE_S = 6.0  # for an acknowledgement; doubled up to the cap while none comes
RESEND_CAP_S = 120.0
RETRY_BASE_S = 0.5
RETRY_CAP_S = 60.0
POLL_PAUSE_S = 0.2
CHANGE_PAUSE_S = 0.05  # changes within this time are one
HELLO_PAUSE_S = 1.0


@dataclass
class Signals:
    """What may have changed at the runtime. Each event has one listener, who clears it."""

    state: asyncio.Event
    outbox: asyncio.Event
    wants: asyncio.Event

    def set_all(self) -> None:
        """Anything may have changed."""
        for event in (self.state, self.outbox, self.wants):
            event.set()


class Talk:
    """One for the process. on_assigned: called when another assignment was taken; on_unknown: after a refusal that
    newer metadata may end.
    """

    def __init__(
        self,
        link: RuntimeLink,
        signals: Signals,
        tally: Tally,
        on_assigned: Callable[[], None],
        on_unknown: Callable[[], None],
    ) -> None:
        self.line: Line | None = None
        self.assignments = Forwarding(link, SignedKind.ASSIGNMENT, "assignment", self._took_assignment, on_unknown)
        self.acks = Forwarding(link, SignedKind.REPORT_ACK, "ack", self._took_ack, on_unknown)
        self._link = link
        self._signals = signals
        self._tally = tally
        self._on_assigned = on_assigned
        self._assigned: tuple[Any, Any] | None = None
        self._acked = asyncio.Event()
        self._hello_due = asyncio.Event()
        self._spread_s = 0.0

    async def will(self) -> Will:
        """What the broker shall say when we are gone; made for a new connection, whose id it carries."""
        info, _ = await self._link.ask_patiently("hello")
        connection_id = new_connection_id()
        return Will(connection_id, canonical.encode(_presence(info, connection_id, online=False)))

    async def converse(self, connection_id: str) -> None:
        """Talk on this connection until it is cut. Raises LineCut."""
        self._signals.set_all()
        await self._announce(connection_id)
        await together(self._tell_state(connection_id), self._tell_reports(), self._answer_calls(connection_id))

    def on_coordinator_here(self, message: Message) -> None:
        """A coordinator has connected: say hello again, not all devices at once."""
        try:
            self._spread_s = parse_coordinator_here(message.payload).spread_s
        except Rejected as error:
            self._tally.note("malformed", f"coordinator: {error.message}")
            return
        self._hello_due.set()

    async def watch_runtime(self) -> None:
        """Long polls: ring when something has changed."""
        seen, session = -1, None
        while True:  # as long as the process lives; each pass is one poll or one pause
            try:
                session = session or await self._link.open()
                seen = await self._poll(session, seen)
            except HoldfastError as error:
                if session is not None and isinstance(error, RuntimeGone):
                    session.close()
                    session = None
                    self._link.note_unreached()
                    self._signals.set_all()  # the next runtime may know otherwise
                await asyncio.sleep(POLL_PAUSE_S)

    async def _poll(self, session: Session, seen: int) -> int:
        answer, _ = await session.ask("changes", seen=seen)
        now = answer.get("seen")
        if answer.get("outbox"):
            self._signals.outbox.set()
        if now != seen:
            self._signals.set_all()
            await asyncio.sleep(CHANGE_PAUSE_S)
        return now if isinstance(now, int) else seen

    async def _announce(self, connection_id: str) -> None:
        """Hello, presence and state, in this order. Raises LineCut."""
        state, raw = await self._link.ask_patiently("state", connection_id=connection_id)
        info, _ = await self._link.ask_patiently("hello")
        hello = Hello(
            device_id=info["device_id"],
            connection_id=connection_id,
            agent_version=info["agent_version"],
            contracts=CONTRACT_VERSIONS,
            device_type=info["device_type"],
            models=tuple(info["models"]),
            engines=tuple(info["engines"]),
            incarnation=info["incarnation"],
            acknowledged=info["acknowledged"],
            epoch=info["epoch"],
            revision=info["revision"],
            state_digest=state["digest"],
        )
        await self._say(HELLO, canonical.encode(hello))
        await self._say(PRESENCE, canonical.encode(_presence(info, connection_id, online=True)))
        await self._say(STATE, raw)

    async def _answer_calls(self, connection_id: str) -> None:
        while True:  # as long as the connection holds
            await self._hello_due.wait()
            await asyncio.sleep(random.random() * self._spread_s)
            self._hello_due.clear()
            await self._announce(connection_id)
            self._signals.outbox.set()
            await asyncio.sleep(HELLO_PAUSE_S)

    async def _tell_state(self, connection_id: str) -> None:
        self._signals.state.clear()  # it was just told
        while True:  # as long as the connection holds
            await _within(self._signals.state, STATE_EVERY_S)
            self._signals.state.clear()
            _, raw = await self._link.ask_patiently("state", connection_id=connection_id)
            await self._say(STATE, raw)
            await asyncio.sleep(STATE_PAUSE_S)

    async def _tell_reports(self) -> None:
        """One batch in flight, sent again until an acknowledgement was taken by the runtime."""
        unanswered = 0
        while True:  # as long as the connection holds
            self._signals.outbox.clear()
            answer, raw = await self._link.ask_patiently("outbox")
            if not answer.get("count"):
                unanswered = 0
                await self._signals.outbox.wait()
                continue
            self._acked.clear()
            await self._say(REPORTS, raw)
            wait_s = pause_s(unanswered, random.random(), base_s=RESEND_BASE_S, cap_s=RESEND_CAP_S)
            unanswered = 0 if await self._answered(raw, wait_s) else unanswered + 1

    async def _answered(self, batch: bytes, wait_s: float) -> bool:
        """Whether an acknowledgement came that changed what is to be sent; one of a hello may change nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:  # bounded by the time-out
                    await self._acked.wait()
                    self._acked.clear()
                    _, now = await self._link.ask_patiently("outbox")
                    if now != batch:
                        return True
        return False

    async def _say(self, channel: Any, payload: bytes) -> None:
        assert self.line is not None
        await self.line.publish(channel, payload)

    def _took_assignment(self, answer: dict[str, Any]) -> None:
        assigned = (answer.get("epoch"), answer.get("revision"))
        if assigned != self._assigned:
            self._assigned = assigned
            log.info("assignment_handed_over", epoch=assigned[0], revision=assigned[1])
            self._on_assigned()
        self._signals.wants.set()

    def _took_ack(self, answer: dict[str, Any]) -> None:
        self._acked.set()


class Forwarding:
    """Signed documents on their way to the runtime, the newest only: each replaces those before it."""

    def __init__(
        self,
        link: RuntimeLink,
        kind: SignedKind,
        op: str,
        on_taken: Callable[[dict[str, Any]], None],
        on_unknown: Callable[[], None],
    ) -> None:
        self._link = link
        self._kind = kind
        self._op = op
        self._on_taken = on_taken
        self._on_unknown = on_unknown
        self._newest = b""
        self._came = asyncio.Event()
        self._pending = b""  # it was not taken, and may be once something has changed

    def note(self, message: Message) -> None:
        """The handler of the channel."""
        self._newest = message.payload
        self._came.set()

    def try_again(self) -> None:
        """The runtime has newer metadata: what it did not take may be good now."""
        if self._pending and not self._came.is_set():
            self._newest = self._pending
            self._came.set()

    async def run(self) -> None:
        """Hand over the newest as it comes; a runtime that is not there or cannot write now gets it again."""
        failures = 0
        while True:  # as long as the process lives; each pass hands over one document
            await self._came.wait()
            self._came.clear()
            raw, self._pending = self._newest, b""
            try:
                answer, _ = await self._link.ask(self._op, raw)
            except Rejected as error:
                self._note_refusal(raw, error)
            except Unavailable as error:
                log.warning("not_taken_now", document=self._kind.value, detail=str(error))
                self._pending = raw
                wait_s = pause_s(failures, random.random(), base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)
                failures += 1
                if not await _within(self._came, wait_s):
                    self.try_again()
                continue
            else:
                self._on_taken(answer)
            failures = 0

    def _note_refusal(self, raw: bytes, error: Rejected) -> None:
        word = error.reason.value if error.reason else "rejected"
        log.warning("refused_by_runtime", document=self._kind.value, reason=word, detail=error.message)
        if error.reason is Reason.SIGNATURE:  # newer metadata may name the coordinator who signed it
            self._pending = raw
            self._on_unknown()


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event came within this time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _presence(info: dict[str, Any], connection_id: str, *, online: bool) -> Presence:
    return Presence(info["device_id"], connection_id, online, info["agent_version"])
