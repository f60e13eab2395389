"""One document of each kind that goes between device and cloud, with every field said; keys are made from a sentence.

The recorded documents of contract version 1 were made of these values: changing one breaks their test, and has to.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.contract.assignment import Assignment, ModelAssignment, Policy
from edge_agent.contract.canonical import encode
from edge_agent.contract.device_state import (
    AssignedState,
    CandidateState,
    DeviceState,
    SlotState,
    SnapshotRef,
    TurnedAway,
)
from edge_agent.contract.envelope import CoordinatorKey, Envelope, SignedKind, signing_input
from edge_agent.contract.evidence import Evidence, MetadataFiles
from edge_agent.contract.presence import CoordinatorHere, Hello, Presence
from edge_agent.contract.report import Report, ReportAck, ReportBatch, ReportKind
from edge_agent.contract.transfer import Get, Kind

# No secret: whoever reads this sentence has the key.
KEY = Ed25519PrivateKey.from_private_bytes(
    hashlib.sha256(b"A key for the recorded documents of Holdfast, which protects nothing").digest()
)
AT_UNIX_MS = 1_900_000_000_000
A, B, C = "a" * 64, "b" * 64, "c" * 64


def signed(kind: SignedKind, document: Any, key: Ed25519PrivateKey = KEY) -> Envelope:
    """The document (or its bytes) in an envelope, signed as this kind."""
    payload = document if isinstance(document, bytes) else encode(document)
    return Envelope(payload=payload, signature=key.sign(signing_input(kind, payload)))


HELLO = Hello(
    device_id="kiosk-7",
    connection_id="c9",
    agent_version="0.1.0",
    contracts=(1,),
    device_type="jetson",
    models=("digits", "tiny"),
    engines=("paddle", "numpy"),
    incarnation="i1",
    acknowledged=12,
    epoch=3,
    revision=41,
    state_digest=C,
)
PRESENCE = Presence(device_id="kiosk-7", connection_id="c9", online=True, agent_version="0.1.0")
COORDINATOR_HERE = CoordinatorHere(connection_id="k2", spread_s=2.5, contracts=(1,))
SLOT = SlotState(
    serving=True,
    status="up",
    active=SnapshotRef("1.0.0", A),
    last_good=SnapshotRef("0.9.0", B),
    wanted=SnapshotRef("1.0.0", A),
    candidate=CandidateState("1.1.0", C, "fetching"),
    assigned=AssignedState(C, 5, False),
    reason="crash_loop",
    declined=TurnedAway("1.0.1", B, "disk_full", False, "2 MiB are free"),
    turned_away=(TurnedAway("1.0.2", B, "proof", True, "output y is 0.25 off"),),
    on_disk=(SnapshotRef("0.9.0", B), SnapshotRef("1.0.0", A)),
    damaged=(B,),
    fallbacks=2,
)
DEVICE_STATE = DeviceState(
    device_id="kiosk-7",
    connection_id="c9",
    number=7,
    at_unix_ms=AT_UNIX_MS,
    agent_version="0.1.0",
    epoch=3,
    revision=41,
    storage="disk_full",
    models={"tiny": SLOT},
)
REPORT = Report(
    device_id="kiosk-7",
    incarnation="i1",
    number=14,
    at_unix_ms=AT_UNIX_MS,
    kind=ReportKind.QUARANTINED,
    model="tiny",
    digest=B,
    version="1.0.2",
    phase="verified",
    reason="proof",
    detail="output y is 0.25 off",
)
# Number 13 was dropped on the device when its outbox was full.
REPORT_BATCH = ReportBatch(
    device_id="kiosk-7",
    incarnation="i1",
    after=12,
    reports=(REPORT, Report("kiosk-7", "i1", 15, AT_UNIX_MS + 1, ReportKind.POISON, detail="ä\t☃")),
)
REPORT_ACK = ReportAck(device_id="kiosk-7", incarnation="i1", committed=15)
GET = Get(kind=Kind.CHUNK, name=A, offset=262_144, length=262_144)
ASSIGNMENT = Assignment(
    device_id="kiosk-7",
    epoch=3,
    revision=42,
    models={
        "digits": ModelAssignment(digest=A, version="1.0.0", generation=1),
        "tiny": ModelAssignment(C, "1.1.0", 5, Policy(probation_s=300.5, allow_interface_change=True)),
    },
)
ASSIGNMENT_ENVELOPE = signed(SignedKind.ASSIGNMENT, ASSIGNMENT)
ACK_ENVELOPE = signed(SignedKind.REPORT_ACK, REPORT_ACK)
COORDINATOR_KEY = CoordinatorKey(epoch=3, public_key=KEY.public_key().public_bytes_raw().hex())
METADATA_FILES = MetadataFiles(root_chain=(b"root 2", b"root 3"), timestamp=b"timestamp", tuf_snapshot=b"snapshot")
EVIDENCE = Evidence(root_chain=(b"root 2",), timestamp=b"timestamp", tuf_snapshot=b"snapshot", targets=b"targets")
