"""Documents as version 1 of the contract wrote them: whatever comes later has to read them. They are never edited.

docs/protocol.md says why. A new kind of document is recorded by tests/tools/record_documents.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_agent.contract import topics
from edge_agent.contract.assignment import parse_assignment
from edge_agent.contract.canonical import encode
from edge_agent.contract.device_state import parse_device_state
from edge_agent.contract.envelope import SignedKind, parse_coordinator_key, parse_envelope, signing_input
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import decode_evidence, decode_metadata_files
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.presence import parse_coordinator_here, parse_hello, parse_presence
from edge_agent.contract.report import parse_report, parse_report_ack, parse_report_batch
from edge_agent.contract.transfer import parse_get
from tests import line_samples as sample
from tests.tools import record_documents

FOLDER = record_documents.RECORDED
PARSERS: dict[str, Callable[[bytes], Any]] = {
    "hello.json": parse_hello,
    "presence.json": parse_presence,
    "state.json": parse_device_state,
    "reports.json": parse_report_batch,
    "get.json": parse_get,
    "assignment.json": parse_envelope,
    "assignment-payload.json": parse_assignment,
    "ack.json": parse_envelope,
    "ack-payload.json": parse_report_ack,
    "coordinator.json": parse_coordinator_here,
    "coordinator-key.json": parse_coordinator_key,
    "report.json": parse_report,
    "manifest.json": parse_manifest,
    "metadata-files.bin": decode_metadata_files,
    "evidence.bin": decode_evidence,
}
SIGNED: dict[str, tuple[SignedKind, str, Callable[[bytes], Any], Any]] = {
    "assignment.json": (SignedKind.ASSIGNMENT, "assignment-payload.json", parse_assignment, sample.ASSIGNMENT),
    "ack.json": (SignedKind.REPORT_ACK, "ack-payload.json", parse_report_ack, sample.REPORT_ACK),
}
EACH = pytest.mark.parametrize("name", PARSERS)
EACH_JSON = pytest.mark.parametrize("name", [name for name in PARSERS if name.endswith(".json")])


def recorded(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def sums() -> dict[str, str]:
    """File name -> SHA-256, as listed."""
    lines = (FOLDER / record_documents.SUMS).read_text(encoding="ascii").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


@EACH
def test_what_version_1_wrote_is_read_field_by_field(name: str) -> None:
    document, expected = PARSERS[name](recorded(name)), record_documents.DOCUMENTS[name]
    assert type(document) is type(expected)
    for field in msgspec.structs.fields(expected):
        assert getattr(document, field.name) == getattr(expected, field.name), f"{name}: {field.name}"


@pytest.mark.parametrize("channel", topics.CHANNELS, ids=lambda channel: channel.name)
def test_each_channel_has_a_recorded_message(channel: topics.Channel) -> None:
    if channel.document is None:
        return  # raw bytes of a part: there is no form to keep
    name = f"{channel.name}.json"
    assert (FOLDER / name).exists(), f"nothing recorded for {channel.name}: see tests/tools/record_documents.py"
    if channel.signed:
        kind, payload_name, _, _ = SIGNED[name]
        assert kind is channel.signed and isinstance(record_documents.DOCUMENTS[payload_name], channel.document)
    else:
        assert isinstance(PARSERS[name](recorded(name)), channel.document)


def test_recorded_bytes_are_never_changed() -> None:
    """If this fails, put the file back: devices in the field speak like this."""
    there = {path.name for path in FOLDER.iterdir()} - {record_documents.SUMS}
    assert there == set(sums()) == set(PARSERS) == set(record_documents.DOCUMENTS)
    for name, digest in sums().items():
        assert hashlib.sha256(recorded(name)).hexdigest() == digest, f"{name} was changed"


def test_recording_again_changes_nothing_that_is_there(tmp_path: Path) -> None:
    record_documents.main(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}.keys() == set(PARSERS)
    (tmp_path / "hello.json").write_bytes(b"as it was")
    (tmp_path / "get.json").unlink()
    record_documents.main(tmp_path)
    assert (tmp_path / "hello.json").read_bytes() == b"as it was"
    assert (tmp_path / "get.json").read_bytes() == record_documents.encoded("get.json")


@pytest.mark.parametrize("name", SIGNED)
def test_recorded_signatures_hold_for_their_kind_only(name: str) -> None:
    kind, payload_name, parse, expected = SIGNED[name]
    public_key = parse_coordinator_key(recorded("coordinator-key.json")).public_key
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    envelope = parse_envelope(recorded(name))
    key.verify(envelope.signature, signing_input(kind, envelope.payload))
    assert envelope.payload == recorded(payload_name) and parse(envelope.payload) == expected
    for other in set(SignedKind) - {kind}:
        with pytest.raises(InvalidSignature):
            key.verify(envelope.signature, signing_input(other, envelope.payload))


@EACH_JSON
def test_a_later_optional_field_is_ignored_and_one_that_has_to_be_understood_refuses(name: str) -> None:
    expected = record_documents.DOCUMENTS[name]
    later = {**json.loads(recorded(name)), "zz_later": {"a": [1, None, "x"]}}
    assert PARSERS[name](encode(later)) == expected
    with pytest.raises(Rejected, match="zz_later") as caught:
        PARSERS[name](encode({**later, "must_understand": ["zz_later"]}))
    assert "Upgrade" in caught.value.next_step
    understood = PARSERS[name](encode({**later, "must_understand": ["schema"]}))
    assert understood == msgspec.structs.replace(expected, must_understand=("schema",))


@pytest.mark.parametrize("name", ["metadata-files.bin", "evidence.bin"])
def test_a_later_kind_of_metadata_is_ignored(name: str) -> None:
    later = {**msgspec.msgpack.decode(recorded(name)), "zz_later": b"more"}
    assert PARSERS[name](msgspec.msgpack.encode(later)) == record_documents.DOCUMENTS[name]


@EACH_JSON
def test_another_schema_is_another_document(name: str) -> None:
    with pytest.raises(Rejected):
        PARSERS[name](encode({**json.loads(recorded(name)), "schema": 2}))
