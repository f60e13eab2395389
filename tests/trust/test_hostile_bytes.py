"""Whatever bytes come, trust answers with Rejected and a reason or with a manifest: never another error."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical

from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import Evidence
from edge_agent.contract.reasons import Reason
from edge_agent.trust.chain import verify_admitted, verify_offer
from edge_agent.trust.verified import DeviceProfile, TufVersions
from tests.json_places import changed, places, without
from tests.samples import manifest_raw
from tests.trust.authority import NOW, ROLES, Authority

RAW = manifest_raw()
AUTHORITY = Authority()
AUTHORITY.rotate(*ROLES)  # all of them, so that a root that is passed over is missed
GOOD = AUTHORITY.evidence(RAW, floors={"tiny": 1})
DEVICE = DeviceProfile("x86_64", ("numpy",), frozenset({"tiny"}))
BOTH = ("admitted", "offer")
PARTS = ("timestamp", "tuf_snapshot", "targets", "root")
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**30, 2**53, 1.5, "", "1", "é", "\ud800", "9" * 5000,
    [], [[]], [None], {}, {"": {}}, {"a": [1]}, "2030-13-45T99:99:99Z", "9999-12-31T23:59:59Z", "rsa",
)  # fmt: skip


def outcome(evidence: Evidence, raw: bytes = RAW, *, kinds: tuple[str, ...] = ("offer",)) -> Reason | None:
    """Why it was refused, if it was; any other error, or a Rejected without a reason, fails the test."""
    reasons: list[Reason | None] = []
    for kind in kinds:
        try:
            if kind == "admitted":
                verify_admitted(evidence, raw, AUTHORITY.pinned)
            else:
                verify_offer(evidence, raw, pinned_root=AUTHORITY.pinned, now=NOW, seen=TufVersions(), device=DEVICE)
            reasons.append(None)
        except Rejected as error:
            assert error.reason is not None and error.message and "\n" not in error.message
            reasons.append(error.reason)
    assert len(set(reasons)) == 1
    return reasons[0]


def with_part(part: str, raw: bytes) -> Evidence:
    if part == "root":
        return msgspec.structs.replace(GOOD, root_chain=(raw,))
    return msgspec.structs.replace(GOOD, **{part: raw})


def part_bytes(part: str) -> bytes:
    raw: bytes = GOOD.root_chain[1] if part == "root" else getattr(GOOD, part)
    return raw


def dumped(document: Any) -> bytes:
    """JSON by Python's own writer, which also writes what good writers refuse."""
    return json.dumps(document).encode()


def test_the_untouched_evidence_is_good() -> None:
    assert outcome(GOOD, kinds=BOTH) is None


@settings(max_examples=150)
@given(part=st.sampled_from(PARTS), raw=st.binary(max_size=300))
def test_random_bytes_are_refused(part: str, raw: bytes) -> None:
    assert outcome(with_part(part, raw), kinds=BOTH) in (Reason.MALFORMED, Reason.SIGNATURE)


@settings(max_examples=150)
@given(part=st.sampled_from(PARTS), at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_changed_byte_is_refused_or_changes_nothing_that_was_signed(part: str, at: int, flip: int) -> None:
    raw = bytearray(part_bytes(part))
    raw[at % len(raw)] ^= flip
    reason = outcome(with_part(part, bytes(raw)), kinds=BOTH)
    if part == "timestamp" and reason is None:
        return  # nobody holds the timestamp's hash: its frame may differ (a blank more), its content not
    assert reason in (Reason.MALFORMED, Reason.SIGNATURE)


@settings(max_examples=100)
@given(part=st.sampled_from(PARTS), length=st.integers(0, 10_000))
def test_a_file_that_ends_early_is_refused(part: str, length: int) -> None:
    whole = part_bytes(part)
    assert outcome(with_part(part, whole[: length % len(whole)]), kinds=BOTH) is not None


@pytest.mark.parametrize("part", PARTS)
def test_every_single_field_changed_in_every_odd_way_is_refused(part: str) -> None:
    document = msgspec.json.decode(part_bytes(part))
    for path in places(document):
        bad = [dumped(changed(document, path, value)) for value in ODD]
        bad.append(dumped(without(document, path)))
        for raw in bad:
            if msgspec.json.encode(_lenient(raw)) != msgspec.json.encode(document):
                assert outcome(with_part(part, raw)) is not None, path


def _lenient(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None


@pytest.mark.parametrize("part", PARTS)
def test_deep_nesting_is_refused(part: str) -> None:
    for bracket in (b"[", b'{"signed":'):
        assert outcome(with_part(part, bracket * (900_000 // len(bracket)))) is Reason.MALFORMED


ROLE = {"timestamp": "timestamp", "tuf_snapshot": "snapshot", "targets": "targets", "root": "root"}


@pytest.mark.parametrize("part", PARTS)
def test_odd_fields_with_good_signatures_raise_nothing_else(part: str) -> None:
    """A stolen key signs well: its holder can get things refused or accepted, but no crash."""
    document = msgspec.json.decode(part_bytes(part))
    tried = 0
    for path in places(document["signed"]):
        for value in ODD:
            raw = resigned(part, changed(document["signed"], path, value))
            if raw is not None:
                outcome(with_part(part, raw))
                tried += 1
    assert tried > 100


def resigned(part: str, payload: Any) -> bytes | None:
    """The payload under good signatures; None where it has no canonical form, so that nobody can sign it."""
    try:
        canonical = encode_canonical(payload)
        assert canonical is not None
        signatures = [signer.sign(canonical.encode()).to_dict() for signer in AUTHORITY.signers[ROLE[part]]]
    except (FormatError, UnicodeEncodeError, TypeError):
        return None
    return dumped({"signatures": signatures, "signed": payload})


@settings(max_examples=100)
@given(raw=st.binary(max_size=400))
def test_random_manifests_are_refused_signed_or_not(raw: bytes) -> None:
    assert outcome(GOOD, raw) is Reason.SIGNATURE
    assert outcome(AUTHORITY.evidence(raw), raw) is Reason.MALFORMED
