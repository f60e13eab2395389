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
from edge_agent.contract.assignment import parse_assignment
from edge_agent.contract.canonical import encode
from edge_agent.contract.device_state import parse_device_state
from edge_agent.contract.envelope import parse_coordinator_key, parse_envelope
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.presence import parse_coordinator_here, parse_hello, parse_presence
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import parse_report, parse_report_ack, parse_report_batch
from edge_agent.contract.transfer import parse_get
from tests import line_samples as sample
from tests.json_places import changed, places
from tests.samples import a_manifest

DOCUMENTS: dict[str, tuple[Callable[[bytes], Any], Any, int]] = {
    "manifest": (parse_manifest, a_manifest(), limits.MANIFEST_BYTES_MAX),
    "assignment": (parse_assignment, sample.ASSIGNMENT, limits.ASSIGNMENT_BYTES_MAX),
    "envelope": (parse_envelope, sample.ASSIGNMENT_ENVELOPE, limits.ENVELOPE_BYTES_MAX),
    "coordinator_key": (parse_coordinator_key, sample.COORDINATOR_KEY, limits.COORDINATOR_KEY_BYTES_MAX),
    "report": (parse_report, sample.REPORT, limits.REPORT_BYTES_MAX),
    "report_batch": (parse_report_batch, sample.REPORT_BATCH, limits.REPORT_BATCH_BYTES_MAX),
    "report_ack": (parse_report_ack, sample.REPORT_ACK, limits.REPORT_ACK_BYTES_MAX),
    "hello": (parse_hello, sample.HELLO, limits.PRESENCE_BYTES_MAX),
    "presence": (parse_presence, sample.PRESENCE, limits.PRESENCE_BYTES_MAX),
    "coordinator_here": (parse_coordinator_here, sample.COORDINATOR_HERE, limits.PRESENCE_BYTES_MAX),
    "device_state": (parse_device_state, sample.DEVICE_STATE, limits.DEVICE_STATE_BYTES_MAX),
    "get": (parse_get, sample.GET, limits.GET_BYTES_MAX),
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
    plain = msgspec.json.decode(encode(document))  # lists, so that what stands in them is a place too
    tried = refusals = 0
    for path in places(plain):
        for value in ODD:
            tried += 1
            try:
                again = parse(compact(changed(plain, path, value)))
                assert encode(again)
            except Rejected as error:
                assert error.reason in (Reason.MALFORMED, Reason.TOO_LARGE)
                refusals += 1
    assert refusals > tried // 2


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
    one = sample.ASSIGNMENT.models["tiny"]
    models = {f"m{i}": one for i in range(limits.MODELS_PER_DEVICE_MAX + 1)}
    raw = encode(msgspec.structs.replace(sample.ASSIGNMENT, models=models))
    assert refused("assignment", raw).reason is Reason.TOO_LARGE
    del models["m0"]
    assert parse_assignment(encode(msgspec.structs.replace(sample.ASSIGNMENT, models=models)))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("hello", {"contracts": []}),
        ("hello", {"contracts": [1] * (limits.CONTRACTS_MAX + 1)}),
        ("hello", {"models": ["m"] * (limits.MODELS_PER_DEVICE_MAX + 1)}),
        ("hello", {"state_digest": "C" * 64}),
        ("coordinator_here", {"spread_s": -0.1}),
        ("coordinator_here", {"spread_s": 3600.5}),
        ("device_state", {"models": {f"m{i}": sample.SLOT for i in range(limits.MODELS_PER_DEVICE_MAX + 1)}}),
        ("device_state", {"models": {"Tiny": sample.SLOT}}),
        ("coordinator_key", {"epoch": 0}),
        ("coordinator_key", {"public_key": "a" * 63}),
        ("envelope", {"signature": "AAAA"}),
        ("envelope", {"signature": "!" * 88}),
        ("get", {"length": 0}),
        ("get", {"length": limits.PART_BYTES_MAX + 1}),
        ("get", {"offset": -1}),
    ],
)
def test_values_beyond_their_bounds_are_refused(kind: str, changes: dict[str, Any]) -> None:
    plain = msgspec.to_builtins(DOCUMENTS[kind][1])
    assert refused(kind, encode({**plain, **msgspec.to_builtins(changes)})).reason is Reason.MALFORMED


ID_KINDS = [kind for kind, (_, document, _) in DOCUMENTS.items() if hasattr(document, "device_id")]


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize(
    "device_id", ["", "a/b", "+", "#", "a+", "a#", "$SYS", "a\0", "a b", "ä", "..", ".", "-a", "a-", "a\n", "a" * 65]
)
def test_a_device_id_has_no_separators_and_no_wildcards(kind: str, device_id: str) -> None:
    plain = msgspec.to_builtins(DOCUMENTS[kind][1])
    refused(kind, encode({**plain, "device_id": device_id}))


@pytest.mark.parametrize("number", [14, 13, 12, 0])
def test_the_numbers_in_a_batch_grow(number: int) -> None:
    first, second = sample.REPORT_BATCH.reports
    reports = (first, msgspec.structs.replace(second, number=number))
    refused("report_batch", encode(msgspec.structs.replace(sample.REPORT_BATCH, reports=reports)))


@pytest.mark.parametrize("changes", [{"device_id": "kiosk-8"}, {"incarnation": "i2"}])
def test_a_batch_has_only_the_senders_own_reports(changes: dict[str, str]) -> None:
    first, second = sample.REPORT_BATCH.reports
    reports = (first, msgspec.structs.replace(second, **changes))
    refused("report_batch", encode(msgspec.structs.replace(sample.REPORT_BATCH, reports=reports)))


def test_a_report_in_a_batch_that_has_to_be_understood_refuses_the_batch() -> None:
    """Else it would be committed and acknowledged by a coordinator that does not know what it says."""
    plain = msgspec.json.decode(encode(sample.REPORT_BATCH))
    plain["reports"][1] |= {"zz_new": 1}
    assert parse_report_batch(encode(plain)) == sample.REPORT_BATCH
    plain["reports"][1] |= {"must_understand": ["zz_new"]}
    assert "zz_new" in refused("report_batch", encode(plain)).message


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("metadata", "root.json"), ("metadata", "0.root.json"), ("metadata", "01.root.json"),
        ("metadata", "../timestamp.json"), ("metadata", "1.timestamp.json"), ("metadata", "timestamp.json\n"),
        ("metadata", "coordinator.json"), ("coordinator", "timestamp.json"), ("coordinator", "x/coordinator.json"),
        ("manifest", "digits@1.0.0"), ("chunk", "A" * 64), ("chunk", "a" * 63), ("chunk", "../" + "a" * 61),
        ("secret", "a" * 64),
    ],
)  # fmt: skip
def test_a_part_is_asked_for_only_by_a_name_that_it_can_have(kind: str, name: str) -> None:
    refused("get", encode({**msgspec.to_builtins(sample.GET), "kind": kind, "name": name}))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("metadata", "timestamp.json"), ("metadata", "1.root.json"), ("metadata", "20.snapshot.json"),
        ("metadata", "3.targets.json"), ("coordinator", "coordinator.json"), ("manifest", "a" * 64),
    ],
)  # fmt: skip
def test_each_part_has_its_name(kind: str, name: str) -> None:
    get = parse_get(encode({**msgspec.to_builtins(sample.GET), "kind": kind, "name": name}))
    assert (get.kind, get.name) == (kind, name)
