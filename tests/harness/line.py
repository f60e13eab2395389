"""The two ends of the line for tests: a coordinator that only signs, and a client of an agent's sync socket that says
what the test tells it to. The product's own ends are `cloud_sync` and `edge_agent.sync`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent.config import load_config
from edge_agent.contract.assignment import Assignment, ModelAssignment, Policy
from edge_agent.contract.canonical import encode
from edge_agent.contract.envelope import Envelope, SignedKind, signing_input
from edge_agent.contract.evidence import Evidence, MetadataFiles, encode_evidence
from edge_agent.contract.report import ReportAck
from edge_agent.folders import SYNC_SOCKET, run_folders
from edge_agent.worker import wire
from tests.harness.agent import Agent
from tests.harness.releases import Release
from tests.publishing import Publisher

PIECE_BYTES = 1 << 20
TIMEOUT_S = 20.0


class Signer:
    """A coordinator's key; what it signs is the test's."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def envelope(self, kind: SignedKind, payload: bytes) -> bytes:
        """These bytes, signed as a document of this kind."""
        return encode(Envelope(payload, self._key.sign(signing_input(kind, payload))))

    def assignment(
        self,
        device_id: str,
        revision: int,
        models: Mapping[str, tuple[Release, int]],
        *,
        epoch: int = 1,
        policy: Policy | None = None,
    ) -> bytes:
        """An assignment; models: per slot a release and its generation."""
        wishes = {
            name: ModelAssignment(release.digest, release.version, generation, policy or Policy())
            for name, (release, generation) in models.items()
        }
        return self.envelope(SignedKind.ASSIGNMENT, encode(Assignment(device_id, epoch, revision, wishes)))

    def ack(self, device_id: str, incarnation: str, committed: int) -> bytes:
        """An acknowledgement of reports."""
        return self.envelope(SignedKind.REPORT_ACK, encode(ReportAck(device_id, incarnation, committed)))


class SyncSocket:
    """One connection to an agent's sync socket; use with `with`."""

    def __init__(self, agent: Agent, name: str = SYNC_SOCKET) -> None:
        state_dir = Path(load_config(agent.config_file).state_dir)
        path = next(folder / name for folder in run_folders(state_dir) if (folder / name).exists())
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(path))
        self._decoder = wire.FrameDecoder()
        self._ready: list[tuple[dict[str, Any], bytes]] = []

    def __enter__(self) -> SyncSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def try_ask(self, op: str, payload: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        """One request and its answer, whatever it says."""
        self.sock.sendall(wire.encode_frame({"op": op, "id": 1, **fields}, payload))
        while not self._ready:  # ends with a frame, the end of the connection or the socket's time-out
            data = self.sock.recv(1 << 18)
            if not data:
                raise ConnectionError("the agent hung up")
            self._ready += list(self._decoder.feed(data))
        return self._ready.pop(0)

    def ask(self, op: str, payload: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        """One request that has to be granted."""
        answer, answer_payload = self.try_ask(op, payload, **fields)
        assert answer["ok"], f"{op}: {answer}"
        return answer, answer_payload

    def refusal(self, op: str, payload: bytes = b"", **fields: Any) -> str:
        """The reason for which this request is refused."""
        answer, _ = self.try_ask(op, payload, **fields)
        assert not answer["ok"], f"{op} was granted: {answer}"
        return str(answer["reason"])

    def send(self, document: str, raw: bytes) -> None:
        """A document in pieces."""
        for at in range(0, len(raw), PIECE_BYTES):
            self.ask("piece", raw[at : at + PIECE_BYTES], document=document)

    def give_metadata(self, publisher: Publisher) -> dict[str, Any]:
        """All signed files of the publisher's repository, and the coordinator that it names."""
        evidence = evidence_of(publisher)
        files = MetadataFiles(evidence.root_chain, evidence.timestamp, evidence.tuf_snapshot, evidence.targets)
        self.send("metadata", encode_evidence(files))
        named = publisher.repository.folder / "coordinator.json"
        if named.exists():
            self.send("coordinator", named.read_bytes())
        return self.ask("take_metadata")[0]

    def begin(self, publisher: Publisher, release: Release) -> list[str]:
        """Offer a release as it is in the repository; the chunks that are wanted."""
        self.send("evidence", encode_evidence(evidence_of(publisher)))
        self.send("manifest", manifest_raw(publisher, release))
        _, hashes = self.ask("offer_begin")
        return [hashes[at : at + 32].hex() for at in range(0, len(hashes), 32)]

    def offer(self, publisher: Publisher, release: Release) -> list[str]:
        """Offer a release to its end; the chunks that were wanted."""
        wanted = self.begin(publisher, release)
        for sha256 in wanted:
            self.ask("offer_chunk", (publisher.repository.folder / "chunks" / sha256).read_bytes(), sha256=sha256)
        self.ask("offer_end")
        return wanted


def evidence_of(publisher: Publisher) -> Evidence:
    """The signed files of the publisher's repository as they are now."""
    from cloud_sync.publish.signing import read_published

    evidence = read_published(publisher.repository).evidence
    assert evidence is not None
    return evidence


def manifest_raw(publisher: Publisher, release: Release) -> bytes:
    """The manifest of a release, as it was signed."""
    name = publisher.repository.folder / "manifests"
    return next(path.read_bytes() for path in name.glob(f"*/{release.version}.json"))
