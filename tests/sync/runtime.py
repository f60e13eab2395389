"""The runtime's end of the sync socket, scripted: it speaks the protocol honestly, keeps what it is told, and verifies
nothing. The real one is `edge_agent.runtime.sync_server`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.contract import canonical
from edge_agent.contract.device_state import DeviceState
from edge_agent.contract.errors import HoldfastError, Rejected
from edge_agent.contract.evidence import MetadataFiles, decode_metadata_files, encode_evidence
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import Report, ReportBatch, ReportKind
from edge_agent.worker import wire

Header = dict[str, Any]
DEVICE = "d1"
INCARNATION = "first"
POLL_S = 1.0
PIECE_BYTES = 1 << 20


class ScriptedRuntime:
    """Listens at `path`. Everything that came is in plain attributes; `refuse` may turn a verb away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = MetadataFiles()
        self.coordinator = b""
        self.wants: list[Header] = []
        self.chunks: dict[str, bytes] = {}
        self.offered: list[str] = []  # digests that were offered to the end
        self.begun: list[str] = []
        self.evidence: list[bytes] = []
        self.assignments: list[bytes] = []
        self.acks: list[bytes] = []
        self.taken: list[MetadataFiles] = []
        self.links: list[tuple[bool, str]] = []
        self.verbs: list[str] = []
        self.acknowledged = 0
        self.outbox: list[Report] = []
        self.refuse: Callable[[str, Header, bytes], HoldfastError | None] = lambda _op, _header, _payload: None
        self._seen = 1
        self.state_number = 0
        self._changed = threading.Condition()
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        """Listen (again)."""
        self.path.unlink(missing_ok=True)
        listener = self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        listener.listen(16)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Gone, as after a kill: nobody listens, and all connections have ended."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def change(self) -> None:
        """Something has changed: long polls answer."""
        with self._changed:
            self._seen += 1
            self._changed.notify_all()

    def want(self, digest: str, version: str, *, model: str = "tiny", repair: bool = False) -> None:
        """The device wants this from now on."""
        self.wants = [{"model": model, "digest": digest, "version": version, "repair": repair}]
        self.change()

    def report(self, count: int = 1) -> None:
        """Put facts into the outbox."""
        first = self.outbox[-1].number + 1 if self.outbox else self.acknowledged + 1
        self.outbox += [
            Report(DEVICE, INCARNATION, number, 0, ReportKind.PHASE, model="tiny", phase="fetching")
            for number in range(first, first + count)
        ]
        self.change()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:  # until the listener is closed
                connection, _ = listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        decoder, documents = wire.FrameDecoder(), dict[str, bytearray]()
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(1 << 18):
                for header, payload in decoder.feed(data):
                    answer, answer_payload = self._answer(documents, header, payload)
                    wire.send_frame(connection, {**answer, "reply": header["id"]}, answer_payload)

    def _answer(self, documents: dict[str, bytearray], header: Header, payload: bytes) -> tuple[Header, bytes]:
        op = str(header["op"])
        self.verbs.append(op)
        try:
            refusal = self.refuse(op, header, payload)
            if refusal is not None:
                raise refusal
            fields, answer = getattr(self, f"_do_{op}")(documents, header, payload)
            return {"ok": True, **fields}, answer
        except HoldfastError as error:
            word = error.reason.value if error.reason else type(error).__name__.lower()
            return {"ok": False, "reason": word, "message": error.message, "next_step": error.next_step}, b""

    # ---- the verbs

    def _do_hello(self, _documents: Any, _header: Header, _payload: bytes) -> tuple[Header, bytes]:
        return {
            "device_id": DEVICE, "device_type": "x86_64", "models": ["tiny"], "engines": ["numpy"],
            "agent_version": "0.1.0", "incarnation": INCARNATION, "acknowledged": self.acknowledged,
            "epoch": 1, "revision": 2,
        }, b""  # fmt: skip

    def _do_kept_metadata(self, _documents: Any, header: Header, _payload: bytes) -> tuple[Header, bytes]:
        raw, at = encode_evidence(self.kept), header["at"]
        return {"bytes": len(raw)}, raw[at : at + PIECE_BYTES]

    def _do_piece(self, documents: dict[str, bytearray], header: Header, payload: bytes) -> tuple[Header, bytes]:
        documents.setdefault(header["document"], bytearray()).extend(payload)
        return {}, b""

    def _do_take_metadata(self, documents: dict[str, bytearray], _header: Any, _payload: bytes) -> tuple[Header, bytes]:
        self.kept = decode_metadata_files(bytes(documents.pop("metadata")))
        self.coordinator = bytes(documents.pop("coordinator", b""))
        self.taken.append(self.kept)
        return {"epoch": 1}, b""

    def _do_assignment(self, _documents: Any, _header: Header, payload: bytes) -> tuple[Header, bytes]:
        self.assignments.append(payload)
        return {"epoch": 1, "revision": len(set(self.assignments))}, b""

    def _do_wants(self, _documents: Any, _header: Header, _payload: bytes) -> tuple[Header, bytes]:
        return {"wants": self.wants}, b""

    def _do_changes(self, _documents: Any, header: Header, _payload: bytes) -> tuple[Header, bytes]:
        deadline = time.monotonic() + POLL_S
        with self._changed:
            self._changed.wait_for(lambda: self._seen != header["seen"], deadline - time.monotonic())
            return {"seen": self._seen, "outbox": len(self.outbox)}, b""

    def _do_state(self, _documents: Any, header: Header, _payload: bytes) -> tuple[Header, bytes]:
        self.state_number += 1
        state = DeviceState(DEVICE, header["connection_id"], self.state_number, 0, "0.1.0", 1, 2, None, {})
        raw = canonical.encode(state)
        return {"digest": canonical.sha256_hex(raw)}, raw

    def _do_outbox(self, _documents: Any, _header: Header, _payload: bytes) -> tuple[Header, bytes]:
        batch = ReportBatch(DEVICE, INCARNATION, self.acknowledged, tuple(self.outbox[:100]))
        return {"count": len(batch.reports)}, canonical.encode(batch)

    def _do_ack(self, _documents: Any, _header: Header, payload: bytes) -> tuple[Header, bytes]:
        self.acks.append(payload)
        if not payload.isdigit():
            raise Rejected("nobody signed this", reason=Reason.SIGNATURE)
        self.acknowledged = int(payload)  # the scripted coordinator signs nothing
        self.outbox = [report for report in self.outbox if report.number > self.acknowledged]
        return {"acknowledged": self.acknowledged}, b""

    def _do_offer_begin(self, documents: dict[str, bytearray], _header: Any, _payload: bytes) -> tuple[Header, bytes]:
        self.evidence.append(bytes(documents.pop("evidence")))
        raw = bytes(documents.pop("manifest"))
        documents["offered"] = bytearray(raw)
        digest, manifest = canonical.sha256_hex(raw), parse_manifest(raw)
        if digest not in {want["digest"] for want in self.wants}:
            raise Rejected("not wanted", reason=Reason.NOT_ASSIGNED)
        self.begun.append(digest)
        wanted = [sha256 for sha256 in manifest.chunk_hashes() if sha256 not in self.chunks]
        fields = {"digest": digest, "model": manifest.name, "version": manifest.version, "wanted": len(wanted)}
        return fields, b"".join(map(bytes.fromhex, wanted))

    def _do_offer_chunk(self, _documents: Any, header: Header, payload: bytes) -> tuple[Header, bytes]:
        if canonical.sha256_hex(payload) != header["sha256"]:
            raise Rejected("another chunk", reason=Reason.CHUNK_MISMATCH)
        self.chunks[header["sha256"]] = payload
        return {}, b""

    def _do_offer_end(self, documents: dict[str, bytearray], _header: Any, _payload: bytes) -> tuple[Header, bytes]:
        digest = canonical.sha256_hex(bytes(documents["offered"]))
        self.offered.append(digest)
        self.wants = [want for want in self.wants if want["digest"] != digest]
        self.change()
        return {"digest": digest}, b""

    def _do_link(self, _documents: Any, header: Header, _payload: bytes) -> tuple[Header, bytes]:
        self.links.append((header["connected"], header["detail"]))
        return {}, b""
