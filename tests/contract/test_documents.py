"""Every document between device and cloud: valid ones go through unchanged, all else is Rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract import limits
from edge_agent.contract.assignment import Assignment, ModelAssignment, Policy, parse_assignment
from edge_agent.contract.canonical import encode
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.presence import Presence, parse_presence
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import Report, ReportKind, parse_report
from tests.json_places import changed, places
from tests.samples import a_manifest

ASSIGNMENT = Assignment(
    device_id="d1",
    epoch=1,
    revision=7,
    models={"tiny": ModelAssignment(digest="a" * 64, version="1.0.0", generation=3, policy=Policy())},
)
REPORT = Report(
    device_id="d1",
    incarnation="i1",
    number=4,
    at_unix_ms=1_900_000_000_000,
    kind=ReportKind.QUARANTINED,
    model="tiny",
    digest="b" * 64,
    version="1.0.0",
    reason="proof",
    detail="output y is 0.25 off",
)
PRESENCE = Presence(device_id="d1", connection_id="c9", online=True, agent_version="0.1.0")
DOCUMENTS: dict[str, tuple[Callable[[bytes], Any], Any, int]] = {
    "manifest": (parse_manifest, a_manifest(), limits.MANIFEST_BYTES_MAX),
    "assignment": (parse_assignment, ASSIGNMENT, limits.ASSIGNMENT_BYTES_MAX),
    "report": (parse_report, REPORT, limits.REPORT_BYTES_MAX),
    "presence": (parse_presence, PRESENCE, limits.PRESENCE_BYTES_MAX),
}
KINDS = pytest.mark.parametrize("kind", DOCUMENTS)
ODD: tuple[Any, ...] = (
    None, True, -1, 2**53, 2**64, 10**400, 1.5, 1e308, "", "a\n", "../x", "/x", "é", "x" * 300, "\x00", [],
    [[]], [1], [None], {}, {"": 0}, {"a": {}},
)  # fmt: skip


def refused(kind: str, raw: bytes) -> Rejected:
    parse = DOCUMENTS[kind][0]
    with pytest.raises(Rejected) as caught:
        parse(raw)
    assert caught.value.reason in (Reason.MALFORMED, Reason.TOO_LARGE)
    assert caught.value.next_step and "\n" not in caught.value.message
    return caught.value


def compact(document: Any) -> bytes:
    """Canonical as far as Python's own writer can: sorted, no blanks."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


@KINDS
def test_a_document_goes_through_bytes_unchanged(kind: str) -> None:
    parse, document, _ = DOCUMENTS[kind]
    raw = encode(document)
    assert parse(raw) == document
    assert encode(parse(raw)) == raw


@KINDS
@settings(max_examples=200)
@given(raw=st.binary(max_size=200))
def test_random_bytes_are_refused(kind: str, raw: bytes) -> None:
    refused(kind, raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=20,
)


@KINDS
@settings(max_examples=150)
@given(value=json_values)
def test_any_other_json_is_refused(kind: str, value: Any) -> None:
    refused(kind, compact(value))


@KINDS
@settings(max_examples=150)
@given(at=st.integers(0, 100_000), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_a_valid_document(kind: str, at: int, flip: int) -> None:
    parse, document, _ = DOCUMENTS[kind]
    raw = bytearray(encode(document))
    raw[at % len(raw)] ^= flip
    try:
        parse(bytes(raw))  # the name of an optional field may have changed: then it is unknown and ignored
    except Rejected as error:
        assert error.reason is Reason.MALFORMED


@KINDS
def test_every_field_changed_in_every_odd_way_is_refused_or_valid_but_never_another_error(kind: str) -> None:
    parse, document, _ = DOCUMENTS[kind]
    plain = msgspec.to_builtins(document)
    refusals = 0
    for path in places(plain):
        for value in ODD:
            try:
                again = parse(compact(changed(plain, path, value)))
                assert encode(again)
            except Rejected as error:
                assert error.reason in (Reason.MALFORMED, Reason.TOO_LARGE)
                refusals += 1
    assert refusals > 100


@KINDS
def test_a_missing_required_field_is_named(kind: str) -> None:
    _, document, _ = DOCUMENTS[kind]
    plain = msgspec.to_builtins(document)
    required = [field.name for field in msgspec.structs.fields(document) if field.required]
    assert required
    for name in required:
        error = refused(kind, encode({key: value for key, value in plain.items() if key != name}))
        assert name in error.message


@KINDS
def test_too_many_bytes_are_refused_before_they_are_parsed(kind: str) -> None:
    _, _, bytes_max = DOCUMENTS[kind]
    assert refused(kind, b"[" * (bytes_max + 1)).reason is Reason.TOO_LARGE


@KINDS
def test_deep_nesting_is_refused(kind: str) -> None:
    depth = DOCUMENTS[kind][2] // 8
    assert refused(kind, b"[" * depth + b"]" * depth).reason is Reason.MALFORMED
    assert refused(kind, b'{"a":' * depth + b"1" + b"}" * depth).reason is Reason.MALFORMED


@KINDS
def test_one_content_has_one_form(kind: str) -> None:
    """Blanks, another order or another way to write a character are another digest, so they are refused."""
    raw = encode(DOCUMENTS[kind][1])
    plain = msgspec.json.decode(raw)
    reverse = json.dumps(dict(reversed(plain.items())), separators=(",", ":")).encode()
    for other in (
        raw + b" ",
        b" " + raw,
        raw.replace(b",", b", ", 1),
        reverse,
        raw.replace(b"1", b"\\u0031", 1),
    ):
        assert other != raw
        refused(kind, other)


@KINDS
def test_unknown_optional_fields_are_ignored_and_required_ones_refuse(kind: str) -> None:
    parse, document, _ = DOCUMENTS[kind]
    newer = {**msgspec.to_builtins(document), "zz_new": {"a": 1}}
    assert parse(encode(newer)) == document
    error = refused(kind, encode({**newer, "must_understand": ["zz_new"]}))
    assert "zz_new" in error.message and "Upgrade" in error.next_step
    known = parse(encode({**newer, "must_understand": ["schema"]}))
    assert known.must_understand == ("schema",)


@KINDS
@pytest.mark.parametrize("wanted", ["schema", {}, 7, [[]], [None], ["a"] * (limits.MUST_UNDERSTAND_MAX + 1)])
def test_a_malformed_must_understand_is_refused(kind: str, wanted: Any) -> None:
    refused(kind, encode({**msgspec.to_builtins(DOCUMENTS[kind][1]), "must_understand": wanted}))


def test_an_assignment_of_too_many_models_is_refused() -> None:
    one = ASSIGNMENT.models["tiny"]
    models = {f"m{i}": one for i in range(limits.MODELS_PER_DEVICE_MAX + 1)}
    raw = encode(msgspec.structs.replace(ASSIGNMENT, models=models))
    assert refused("assignment", raw).reason is Reason.TOO_LARGE
    del models["m0"]
    assert parse_assignment(encode(msgspec.structs.replace(ASSIGNMENT, models=models)))
