"""A sync process that lies: each trick plays it on an agent's sync socket and checks what it is told. That the device
is unharmed afterwards is the tests' to see; floods are in `evil_floods`.
"""

from __future__ import annotations

import array
import socket
import struct

import msgspec

from edge_agent.contract import limits
from edge_agent.contract.assignment import Assignment
from edge_agent.contract.canonical import encode, sha256_hex
from edge_agent.contract.envelope import CoordinatorKey, Envelope, SignedKind, parse_envelope
from edge_agent.contract.evidence import Evidence, MetadataFiles, encode_evidence
from edge_agent.contract.manifest import encode_manifest, parse_manifest
from edge_agent.contract.report import ReportAck
from edge_agent.worker import wire
from tests.harness.line import evidence_of, manifest_raw
from tests.sync.evil_stage import REVISION, Stage, Trick, frame, hangs_up, offer

# ---- wrong bytes


def manifests_that_nobody_signed(stage: Stage) -> None:
    with stage.socket() as sync:
        evidence = encode_evidence(stage.evidence)
        manifest = parse_manifest(stage.wanted)
        higher, _ = encode_manifest(msgspec.structs.replace(manifest, release=manifest.release + 1))
        for raw in (b"", b"{}", bytes(1000), higher, stage.wanted + b" ", stage.wanted[:-1]):
            assert offer(sync, raw, evidence) == "not_assigned"


def evidence_that_proves_nothing(stage: Stage) -> None:
    strange = evidence_of(stage.strange_publisher)
    now = stage.evidence
    mixed = Evidence(now.root_chain, strange.timestamp, now.tuf_snapshot, now.targets)
    cut = Evidence(now.root_chain, now.timestamp, now.tuf_snapshot, now.targets[:-1])
    bad_root = Evidence((strange.targets,), now.timestamp, now.tuf_snapshot, now.targets)
    with stage.socket() as sync:
        assert offer(sync, stage.wanted, b"") == "malformed"
        assert offer(sync, stage.wanted, bytes(5000)) == "malformed"
        assert offer(sync, stage.wanted, encode_evidence(stage.old_evidence)) in ("metadata_rollback", "signature")
        for evidence in (strange, mixed, cut, bad_root, Evidence((), b"", b"", b"")):
            assert offer(sync, stage.wanted, encode_evidence(evidence)) in ("signature", "malformed")


def chunks_that_nobody_asked_for(stage: Stage) -> None:
    publisher = stage.releases.publisher
    with stage.socket() as sync:
        assert sync.refusal("offer_chunk", b"x", sha256="a" * 64) == "chunk_mismatch", "before any offer"
        assert sync.refusal("offer_end") == "out_of_order"
        wanted = sync.begin(publisher, stage.releases.all["1.1.0"])
        assert wanted
        for name in ("a" * 64, "", "../../state/agent.db", wanted[0].upper(), wanted[0] + "\n", 7, None, [wanted[0]]):
            assert sync.refusal("offer_chunk", b"x", sha256=name) == "chunk_mismatch"
        nobodys = b"a chunk that has its right name"
        assert sync.refusal("offer_chunk", nobodys, sha256=sha256_hex(nobodys)) == "chunk_mismatch"
        other = parse_manifest(manifest_raw(publisher, stage.releases.all["2.0.0"])).file("model.bin").chunks[0]
        others = (publisher.repository.folder / "chunks" / other).read_bytes()
        assert sync.refusal("offer_chunk", others, sha256=other) == "chunk_mismatch", "published, and not of this one"
        right = (publisher.repository.folder / "chunks" / wanted[0]).read_bytes()
        for content in (b"", right[:-1], right + b"\0", bytes(len(right)), bytes(wire.PAYLOAD_BYTES_MAX)):
            assert sync.refusal("offer_chunk", content, sha256=wanted[0]) in ("chunk_mismatch", "too_large")
        assert sync.refusal("offer_end") == "truncated"


def endless_pieces(stage: Stage) -> None:
    piece = bytes(wire.PAYLOAD_BYTES_MAX)
    with stage.socket() as sync:
        assert sync.refusal("piece", b"x", document="agent.db") == "malformed"
        assert sync.refusal("piece", b"x", document=["manifest"]) == "malformed"
        for document in ("manifest", "evidence", "metadata", "coordinator"):
            answers = [sync.try_ask("piece", piece, document=document)[0] for _ in range(6)]
            assert "too_large" in [answer.get("reason") for answer in answers], document


def frames_that_are_none(stage: Stage) -> None:
    for raw in (
        b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n" + bytes(100),
        struct.pack("!II", wire.HEADER_BYTES_MAX + 1, 0),
        struct.pack("!II", 2, wire.PAYLOAD_BYTES_MAX + 1),
        struct.pack("!II", 2**32 - 1, 2**32 - 1),
        frame(b"[" * 500_000),
        frame(b'{"a":' * 150_000),
        frame(b"[]"),
        frame(b"7"),
        frame(b"\xff\xfe"),
        frame(b"{"),
        frame(b'{"id":' + b"9" * 5000 + b"}"),
    ):
        assert hangs_up(stage, raw), raw[:40]


# ---- assignments and acknowledgements


def assignments_of_the_past(stage: Stage) -> None:
    with stage.socket() as sync:
        for raw in stage.past:
            assert sync.refusal("assignment", raw) in ("stale_assignment", "wrong_device")
        assert sync.ask("assignment", stage.taken)[0]["revision"] == REVISION, "again is harmless"


def assignments_that_the_coordinator_did_not_sign(stage: Stage) -> None:
    wish = {"tiny": (stage.releases.all["0.9.0"], 99)}
    strange = stage.stranger.assignment("d", 99, wish)
    envelope = parse_envelope(stage.taken)
    raised = envelope.payload.replace(b'"revision":6', b'"revision":7')
    assert raised != envelope.payload
    with stage.socket() as sync:
        for raw in (
            strange,
            encode(Envelope(raised, envelope.signature)),
            encode(Envelope(envelope.payload, bytes(64))),
            encode(Envelope(b"", envelope.signature)),
            stage.signer.envelope(SignedKind.REPORT_ACK, raised),
            stage.signer.ack("d", stage.incarnation, 1),
        ):
            assert sync.refusal("assignment", raw) == "signature"
        bare = encode(Assignment("d", 1, 99, {}))
        for raw in (b"", b"{}", bare, bytes(1000), b"[" * 200_000, stage.taken[:-1], stage.taken + b" "):
            assert sync.refusal("assignment", raw) == "malformed"
        plain = msgspec.json.decode(stage.taken)
        assert sync.refusal("assignment", encode({**plain, "zz": 1, "must_understand": ["zz"]})) == "malformed"
        assert sync.refusal("assignment", bytes(limits.ENVELOPE_BYTES_MAX + 1)) == "too_large"


def acknowledgements_of_nothing(stage: Stage) -> None:
    strange = [stage.stranger.ack("d", stage.incarnation, number) for number in (0, 1, 10_000)]
    bare = encode(ReportAck("d", stage.incarnation, 10_000))
    with stage.socket() as sync:
        for raw in (*strange, stage.taken, stage.signer.envelope(SignedKind.ASSIGNMENT, bare)):
            assert sync.refusal("ack", raw) == "signature"
        for raw in (b"", bare, b"\0" * 100):
            assert sync.refusal("ack", raw) == "malformed"
        # Stolen from the line of other devices, or of this one before its database was lost.
        assert sync.refusal("ack", stage.signer.ack("e", stage.incarnation, 10_000)) == "wrong_device"
        assert sync.refusal("ack", stage.signer.ack("d", "another", 10_000)) == "out_of_order"


def an_old_acknowledgement_again(stage: Stage) -> None:
    """It only makes the device send reports once more."""
    with stage.socket() as sync:
        sync.ask("ack", stage.signer.ack("d", stage.incarnation, 0))
        assert sync.ask("outbox")[0]["count"] > 0
        sync.ask("ack", stage.signer.ack("d", stage.incarnation, stage.acknowledged))


def metadata_that_names_another_coordinator(stage: Stage) -> None:
    now, strange = stage.evidence, evidence_of(stage.strange_publisher)
    whole = MetadataFiles(now.root_chain, now.timestamp, now.tuf_snapshot, now.targets)
    other = encode(CoordinatorKey(99, stage.stranger.public_key))
    strange_files = MetadataFiles(strange.root_chain, strange.timestamp, strange.tuf_snapshot, strange.targets)
    tries: list[tuple[bytes, bytes]] = [
        (b"", b""),
        (bytes(1000), b""),
        (encode_evidence(MetadataFiles()), b""),
        (encode_evidence(MetadataFiles(now.root_chain, now.timestamp)), other),
        (encode_evidence(strange_files), other),
        (encode_evidence(MetadataFiles(strange.root_chain, now.timestamp)), other),
        (encode_evidence(whole), other),
        (encode_evidence(whole), b"{}"),
        (encode_evidence(whole), bytes(limits.COORDINATOR_KEY_BYTES_MAX)),
    ]
    for files, coordinator in tries:
        with stage.socket() as sync:
            sync.send("metadata", files)
            if coordinator:
                sync.send("coordinator", coordinator)
            sync.try_ask("take_metadata")
            assert sync.ask("assignment", stage.taken)[0]["revision"] == REVISION, "the coordinator is still believed"


# ---- what is not for this socket


def offers_that_nobody_assigned(stage: Stage) -> None:
    with stage.socket() as sync:
        evidence = encode_evidence(stage.evidence)
        for version in ("0.9.0", "1.0.0", "2.0.0"):
            release = stage.releases.all[version]
            assert offer(sync, manifest_raw(stage.releases.publisher, release), evidence) == "not_assigned"


def verbs_of_the_operator(stage: Stage) -> None:
    with stage.socket() as sync:
        for op in ("rollback", "verify", "status", "history", "wait", "offer_piece", "", "__class__", "_do_hello"):
            answer, _ = sync.try_ask(op, model="tiny", version="0.9.0")
            assert not answer["ok"] and answer["reason"] == "malformed"
        for op in (None, 7, ["hello"], {"a": 1}, "é" * 100_000):
            sync.sock.sendall(wire.encode_frame({"op": op, "id": 1}))
        for _ in range(5):
            answer, _ = sync.receive()
            assert answer["reason"] == "malformed" and len(answer["message"]) < 1000


def odd_values(stage: Stage) -> None:
    odd = (None, True, -1, 1 << 70, 1e300, "", "x" * 100_000, [], {}, "\ud800", "a\0b", "\x1b[2J")
    for value in odd:
        with stage.socket() as sync:
            for op, field in (("kept_metadata", "at"), ("state", "connection_id"), ("offer_chunk", "sha256"),
                              ("piece", "document"), ("hello", "id")):  # fmt: skip
                answer, _ = sync.try_ask(op, **{field: value})
                assert answer["ok"] or answer["reason"] in ("malformed", "chunk_mismatch"), (op, value)
    for value in (None, "x", 1.5, []):
        with stage.socket() as sync:
            assert sync.refusal("changes", seen=value) == "malformed"
    giant = b'{"op":"hello","id":"' + b"x" * (wire.HEADER_BYTES_MAX - 30) + b'"}'
    assert hangs_up(stage, frame(giant)), "its answer would be no frame any more"


def lies_about_the_link(stage: Stage) -> None:
    """What it says is shown to the operator: as text, never as commands to the terminal."""
    with stage.socket() as sync:
        for detail in (
            "\x1b[2J\x1b]0;owned\x07",
            "line\nanother: fine",
            "\ud800",
            "[red]x[/]",
            "x" * 100_000,
            None,
            [],
        ):
            sync.ask("link", connected="yes", detail=detail)
            document = stage.agent.status()["sync"]
            assert document["connected"] is False and len(document["detail"]) <= limits.DETAIL_CHARS_MAX
            assert document["detail"].isprintable(), repr(document["detail"])[:80]
        sync.ask("link", connected=False, detail="")


def descriptors_nobody_asked_for(stage: Stage) -> None:
    with stage.socket() as sync, open("/dev/null", "rb") as null:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 50))]
        for _ in range(20):
            sync.sock.sendmsg([wire.encode_frame({"op": "hello", "id": 1, "fds": 50})], ancillary)
            assert sync.receive()[0]["ok"]


LIES: tuple[Trick, ...] = (
    manifests_that_nobody_signed, evidence_that_proves_nothing, chunks_that_nobody_asked_for, endless_pieces,
    frames_that_are_none, assignments_of_the_past, assignments_that_the_coordinator_did_not_sign,
    acknowledgements_of_nothing, an_old_acknowledgement_again, metadata_that_names_another_coordinator,
    offers_that_nobody_assigned, verbs_of_the_operator, odd_values, lies_about_the_link, descriptors_nobody_asked_for,
)  # fmt: skip
