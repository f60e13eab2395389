"""The sync socket: what the process that speaks with the network may do here, which is to offer and to ask; never more.

It may die, hang or lie at any time: every signature, hash and number is checked here or below. The operator's verbs are
on another socket (`admin`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from edge_agent import AGENT_VERSION
from edge_agent.config import Config
from edge_agent.contract import canonical, limits
from edge_agent.contract.device_state import DeviceState
from edge_agent.contract.envelope import SignedKind
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import decode_metadata_files
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import parse_report_ack
from edge_agent.core.assignment import Want
from edge_agent.runtime.assignments import AssignmentDesk
from edge_agent.runtime.authority import Authority
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.link_state import LinkState
from edge_agent.runtime.offers import Offer, OfferDesk
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.verb_server import Answer, Bounds, Header, Verb, VerbServer, whole_number
from edge_agent.trust.coordinator import open_envelope

log = structlog.get_logger()

PIECE_BYTES = limits.MIB  # of the kept metadata, in one answer
DOCUMENT_BYTES_MAX = {
    "metadata": limits.SYNC_METADATA_BYTES_MAX,
    "evidence": limits.SYNC_METADATA_BYTES_MAX,
    "manifest": limits.MANIFEST_BYTES_MAX,
    "coordinator": limits.COORDINATOR_KEY_BYTES_MAX,
}


@dataclass
class Session:
    """One connection: what it is offering, and the documents whose pieces it has sent so far."""

    offer: Offer = field(default_factory=Offer)
    documents: dict[str, bytearray] = field(default_factory=dict)

    def take(self, name: str) -> bytes:
        """A document, which begins anew."""
        return bytes(self.documents.pop(name, b""))


class SyncServer:
    """The verbs of the sync socket."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        desk: OfferDesk,
        assignments: AssignmentDesk,
        authority: Authority,
        store: AgentStore,
        link: LinkState,
        state: Callable[[str], DeviceState],
    ) -> None:
        self._config = config
        self._executor = executor
        self._desk = desk
        self._assignments = assignments
        self._authority = authority
        self._store = store
        self._link = link
        self._state = state
        verbs: dict[str, Verb[Session]] = {
            "hello": self._do_hello,
            "kept_metadata": self._do_kept_metadata,
            "piece": self._do_piece,
            "take_metadata": self._do_take_metadata,
            "assignment": self._do_assignment,
            "wants": self._do_wants,
            "changes": self._do_changes,
            "state": self._do_state,
            "outbox": self._do_outbox,
            "ack": self._do_ack,
            "offer_begin": self._do_offer_begin,
            "offer_chunk": self._do_offer_chunk,
            "offer_end": self._do_offer_end,
            "link": self._do_link,
        }
        bounds = Bounds(limits.SYNC_CONNECTIONS_MAX, limits.SYNC_IDLE_S, limits.SYNC_IDLE_S)
        self._server = VerbServer("sync", bounds, verbs, Session, lambda session: desk.gone(session.offer))

    async def start(self, path: Path) -> None:
        """Listen. Raises Rejected when that is not possible."""
        await self._server.start(path)

    async def end(self) -> None:
        """Stop listening, and end the connections that there are."""
        await self._server.end()

    # ---- what the process asks

    async def _do_hello(self, session: Session, header: Header, payload: bytes) -> Answer:
        incarnation, acknowledged = await self._store.outbox_mark()
        taken = self._assignments.taken
        return {
            "device_id": self._config.device_id,
            "device_type": self._config.device_type,
            "models": sorted(self._config.models),
            "engines": sorted(self._config.engines),
            "agent_version": AGENT_VERSION,
            "incarnation": incarnation,
            "acknowledged": acknowledged,
            "epoch": taken.epoch,
            "revision": taken.revision,
        }, b""

    async def _do_kept_metadata(self, session: Session, header: Header, payload: bytes) -> Answer:
        files = self._authority.files()
        at = whole_number(header, "at", 0, 0, len(files))
        return {"bytes": len(files)}, files[at : at + PIECE_BYTES]

    async def _do_wants(self, session: Session, header: Header, payload: bytes) -> Answer:
        return {"wants": [_want_document(want) for want in self._assignments.wants()]}, b""

    async def _do_changes(self, session: Session, header: Header, payload: bytes) -> Answer:
        """Long poll: answers when something has changed since `seen`, or after a while."""
        seen = whole_number(header, "seen", -1, -1, 1 << 62)
        changes = await self._executor.wait_change(seen, limits.LONG_POLL_S)
        return {"seen": changes, "outbox": await self._store.outbox_count()}, b""

    async def _do_state(self, session: Session, header: Header, payload: bytes) -> Answer:
        raw = canonical.encode(self._state(_label(header, "connection_id")))
        return {"digest": canonical.sha256_hex(raw)}, raw

    async def _do_outbox(self, session: Session, header: Header, payload: bytes) -> Answer:
        batch = await self._store.outbox_batch()
        return {"count": len(batch.reports)}, canonical.encode(batch)

    # ---- what it brings: believed for its signatures only

    async def _do_piece(self, session: Session, header: Header, payload: bytes) -> Answer:
        name = str(header.get("document"))[: limits.NAME_CHARS_MAX]
        bytes_max = DOCUMENT_BYTES_MAX.get(name)
        if bytes_max is None:
            raise Rejected(f"there is no document {name!r}", reason=Reason.MALFORMED)
        document = session.documents.setdefault(name, bytearray())
        if len(document) + len(payload) > bytes_max:
            session.documents.pop(name)
            raise Rejected(f"{name} has more than {bytes_max} bytes", reason=Reason.TOO_LARGE)
        document += payload
        return {}, b""

    async def _do_take_metadata(self, session: Session, header: Header, payload: bytes) -> Answer:
        files, coordinator = session.take("metadata"), session.take("coordinator")
        try:
            await self._authority.take(decode_metadata_files(files), coordinator or None)
        except Rejected as refusal:
            for want in self._assignments.wants():  # what was assigned does not come: an operator has to see why
                if not want.repair:
                    await self._desk.note_refusal(want.model, want.digest, want.version, refusal)
            raise
        named = self._authority.coordinator
        if named is not None:
            await self._store.acknowledged_by(named.public_key)
        return {"epoch": named.epoch if named else 0}, b""

    async def _do_assignment(self, session: Session, header: Header, payload: bytes) -> Answer:
        mark = await self._assignments.take(payload)
        return {"epoch": mark.epoch, "revision": mark.revision}, b""

    async def _do_ack(self, session: Session, header: Header, payload: bytes) -> Answer:
        raw = open_envelope(payload, SignedKind.REPORT_ACK, self._authority.require())
        return {"acknowledged": await self._store.acknowledge(parse_report_ack(raw))}, b""

    async def _do_offer_begin(self, session: Session, header: Header, payload: bytes) -> Answer:
        manifest, evidence = session.take("manifest"), session.take("evidence")
        digest = hashlib.sha256(manifest).hexdigest()
        want = next((want for want in self._assignments.wants() if want.digest == digest), None)
        if want is None:
            raise Rejected(f"snapshot {digest[:12]} is neither assigned nor a repair", reason=Reason.NOT_ASSIGNED)
        self._desk.gone(session.offer)
        session.offer = Offer()
        self._desk.add_piece(session.offer, "manifest", manifest)
        self._desk.add_piece(session.offer, "evidence", evidence)
        wanted = await self._desk.begin(
            session.offer, retry=False, claimed_model=want.model, claimed_version=want.version
        )
        fields = {"digest": digest, "model": want.model, "version": want.version, "wanted": len(wanted)}
        return fields, b"".join(bytes.fromhex(sha256) for sha256 in wanted)

    async def _do_offer_chunk(self, session: Session, header: Header, payload: bytes) -> Answer:
        await self._desk.put_chunk(session.offer, str(header.get("sha256")), payload)
        return {}, b""

    async def _do_offer_end(self, session: Session, header: Header, payload: bytes) -> Answer:
        verified = await self._desk.end(session.offer)
        session.offer = Offer()
        return {"digest": verified.digest}, b""

    async def _do_link(self, session: Session, header: Header, payload: bytes) -> Answer:
        detail = str(header.get("detail", ""))[: limits.DETAIL_CHARS_MAX]
        self._link.said(connected=header.get("connected") is True, detail=detail)
        return {}, b""


def _want_document(want: Want) -> dict[str, Any]:
    return {"model": want.model, "digest": want.digest, "version": want.version, "repair": want.repair}


def _label(header: Header, key: str) -> str:
    value = header.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= limits.NAME_CHARS_MAX:
        raise Rejected(f"{key} is not a short text", reason=Reason.MALFORMED)
    return value
