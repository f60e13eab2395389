"""The admin socket: what an operator on the device may ask, and how a snapshot is offered from a file.

Verbs are translated to events here, and decided in `core`; connections are `verb_server`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.state import Status
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.offers import Offer, OfferDesk
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.scrub import Scrubber
from edge_agent.runtime.status import model_document
from edge_agent.runtime.verb_server import Answer, Bounds, Header, Verb, VerbServer, whole_number


@dataclass
class Session:
    """One connection: an operator's command, or an offer in progress."""

    offer: Offer


class AdminServer:
    """The verbs of the admin socket."""

    def __init__(
        self,
        executor: Executor,
        desk: OfferDesk,
        scrubber: Scrubber,
        store: AgentStore,
        status: Callable[[], Awaitable[Header]],
        routed: Callable[[str], str | None],
    ) -> None:
        self._executor = executor
        self._desk = desk
        self._scrubber = scrubber
        self._store = store
        self._status = status
        self._routed = routed
        verbs: dict[str, Verb[Session]] = {
            "status": self._do_status,
            "history": self._do_history,
            "rollback": self._do_rollback,
            "pin": self._do_pin,
            "unpin": self._do_unpin,
            "verify": self._do_verify,
            "wait": self._do_wait,
            "offer_piece": self._do_offer_piece,
            "offer_begin": self._do_offer_begin,
            "offer_chunk": self._do_offer_chunk,
            "offer_end": self._do_offer_end,
        }
        bounds = Bounds(limits.ADMIN_CONNECTIONS_MAX, limits.ADMIN_FIRST_S, limits.OFFER_IDLE_S)
        self._server = VerbServer("admin", bounds, verbs, lambda: Session(Offer()), lambda s: desk.gone(s.offer))

    async def start(self, path: Path) -> None:
        """Listen. Raises Rejected when that is not possible."""
        await self._server.start(path)

    async def end(self) -> None:
        """Stop listening, and end the connections that there are."""
        await self._server.end()

    # ---- the operator's verbs

    async def _do_status(self, session: Session, header: Header, payload: bytes) -> Answer:
        return {"status": await self._status()}, b""

    async def _do_history(self, session: Session, header: Header, payload: bytes) -> Answer:
        newest = whole_number(header, "newest", 50, 1, limits.HISTORY_LINES_MAX)
        lines = await self._store.journal(self._model_or_none(header), newest)
        return {"lines": [line.document() for line in lines]}, b""

    async def _do_rollback(self, session: Session, header: Header, payload: bytes) -> Answer:
        return await self._chosen(ev.RollbackAsked(self._model(header), _version_or_none(header)))

    async def _do_pin(self, session: Session, header: Header, payload: bytes) -> Answer:
        return await self._chosen(ev.PinAsked(self._model(header), _version_or_none(header)))

    async def _do_unpin(self, session: Session, header: Header, payload: bytes) -> Answer:
        """What is wanted then may have to be fetched and proven first: nobody waits for it here."""
        model = self._model(header)
        step = await self._executor.post(ev.UnpinAsked(model))
        if step.refusal is not None:
            raise Rejected(step.refusal.text, reason=step.refusal.reason)
        return self._as_it_is(model)

    async def _chosen(self, choice: ev.RollbackAsked | ev.PinAsked) -> Answer:
        """Done once the chosen snapshot serves. Raises Rejected or Unavailable."""
        model = choice.model
        step = await self._executor.post(choice)
        if step.refusal is not None:
            raise Rejected(step.refusal.text, reason=step.refusal.reason)
        target = step.state.wanted
        seen = self._executor.changes
        while True:  # bounded by ADMIN_REQUEST_S
            state = self._executor.state(model)
            if state.active == target and state.status is Status.UP and self._routed(model) == target:
                return self._as_it_is(model)
            if state.wanted != target or target not in (state.active, state.raising):
                raise Unavailable(
                    f"{model}: the snapshot did not come up, what served before still serves",
                    next_step="See `edge-agent history` for the reason",
                )
            seen = await self._executor.wait_change(seen, limits.ADMIN_REQUEST_S)

    def _as_it_is(self, model: str) -> Answer:
        """The slot, and whether the disk has it so."""
        unsaved = self._executor.storage_reason
        saved = {"saved": self._executor.is_saved(model), "storage": unsaved.value if unsaved else None}
        return {"model": model_document(self._executor.state(model), self._routed(model)), **saved}, b""

    async def _do_verify(self, session: Session, header: Header, payload: bytes) -> Answer:
        damaged = await self._scrubber.verify_all()
        return {"damaged_chunks": damaged}, b""

    async def _do_wait(self, session: Session, header: Header, payload: bytes) -> Answer:
        """Long poll: answers when something has changed since `seen`, or after a while."""
        model = self._model(header)
        seen = whole_number(header, "seen", -1, -1, 1 << 62)
        changes = await self._executor.wait_change(seen, min(limits.LONG_POLL_S, limits.OFFER_IDLE_S / 2))
        return {"seen": changes, "model": model_document(self._executor.state(model), self._routed(model))}, b""

    # ---- an offer

    async def _do_offer_piece(self, session: Session, header: Header, payload: bytes) -> Answer:
        self._desk.add_piece(session.offer, str(header.get("document")), payload)
        return {}, b""

    async def _do_offer_begin(self, session: Session, header: Header, payload: bytes) -> Answer:
        wanted = await self._desk.begin(
            session.offer,
            retry=header.get("retry") is True,
            claimed_model=str(header.get("model", ""))[: limits.NAME_CHARS_MAX],
            claimed_version=str(header.get("version", ""))[: limits.VERSION_CHARS_MAX],
        )
        verified = session.offer.verified
        assert verified is not None
        fields = {"digest": verified.digest, "model": verified.manifest.name, "version": verified.manifest.version}
        return {**fields, "wanted": len(wanted)}, b"".join(bytes.fromhex(sha256) for sha256 in wanted)

    async def _do_offer_chunk(self, session: Session, header: Header, payload: bytes) -> Answer:
        await self._desk.put_chunk(session.offer, str(header.get("sha256")), payload)
        return {}, b""

    async def _do_offer_end(self, session: Session, header: Header, payload: bytes) -> Answer:
        verified = await self._desk.end(session.offer)
        return {"digest": verified.digest, "seen": self._executor.changes}, b""

    def _model(self, header: Header) -> str:
        name = str(header.get("model"))
        try:
            return self._executor.state(name).model
        except KeyError:
            here = [state.model for state in self._executor.states()]
            close = get_close_matches(name, here, n=1)
            raise Rejected(
                f"this device runs no model {name!r} (it runs: {', '.join(here)})",
                reason=Reason.WRONG_SLOT,
                next_step=f"Did you mean {close[0]}?" if close else "",
            ) from None

    def _model_or_none(self, header: Header) -> str | None:
        return self._model(header) if header.get("model") is not None else None


def _version_or_none(header: Header) -> str | None:
    version = header.get("version")
    return str(version) if version is not None else None
