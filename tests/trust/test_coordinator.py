"""The coordinator that the publisher names, and what carries its signature: one case for each way to pretend."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edge_agent.contract.canonical import encode
from edge_agent.contract.envelope import COORDINATOR_TARGET_PATH, CoordinatorKey, SignedKind
from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason
from edge_agent.trust.coordinator import open_envelope, verify_coordinator
from tests.harness.line import Signer
from tests.trust.authority import NOW, Authority

SIGNER = Signer()
KEY = CoordinatorKey(3, SIGNER.public_key)
RAW = encode(KEY)


def reason_of(caught: pytest.ExceptionInfo[Rejected]) -> Reason | None:
    return caught.value.reason


def test_the_named_coordinator_is_believed_long_after_every_date() -> None:
    authority = Authority()
    past = dict.fromkeys(("timestamp", "snapshot", "targets"), NOW - timedelta(days=9_999))
    evidence = authority.evidence(RAW, path=COORDINATOR_TARGET_PATH, expires=past)
    assert verify_coordinator(evidence, RAW, authority.pinned) == KEY


@pytest.mark.parametrize("case", ["another key", "another place", "another publisher", "no JSON"])
def test_anything_else_is_not(case: str) -> None:
    authority = Authority()
    path = "manifests/tiny/1.0.0.json" if case == "another place" else COORDINATOR_TARGET_PATH
    raw = b"{}" if case == "no JSON" else RAW
    evidence = authority.evidence(raw, path=path)
    said = encode(CoordinatorKey(3, Signer().public_key)) if case == "another key" else raw
    pinned = Authority().pinned if case == "another publisher" else authority.pinned
    with pytest.raises(Rejected) as caught:
        verify_coordinator(evidence, said, pinned)
    assert reason_of(caught) is (Reason.MALFORMED if case == "no JSON" else Reason.SIGNATURE)


def test_an_envelope_gives_its_document_back_byte_for_byte() -> None:
    raw = SIGNER.envelope(SignedKind.ASSIGNMENT, b"any bytes")
    assert open_envelope(raw, SignedKind.ASSIGNMENT, KEY) == b"any bytes"


@pytest.mark.parametrize("kind", SignedKind)
def test_a_document_of_one_kind_does_not_pass_for_another(kind: SignedKind) -> None:
    other = next(one for one in SignedKind if one is not kind)
    with pytest.raises(Rejected) as caught:
        open_envelope(SIGNER.envelope(other, b"x"), kind, KEY)
    assert reason_of(caught) is Reason.SIGNATURE


def test_somebody_elses_signature_and_a_changed_document_are_refused() -> None:
    theirs = Signer().envelope(SignedKind.ASSIGNMENT, b"x")
    ours = SIGNER.envelope(SignedKind.ASSIGNMENT, b"xxxx").replace(b"eHh4eA", b"eHh4eQ")
    for raw in (theirs, ours):
        with pytest.raises(Rejected) as caught:
            open_envelope(raw, SignedKind.ASSIGNMENT, KEY)
        assert reason_of(caught) is Reason.SIGNATURE


def test_a_key_that_is_no_point_of_the_curve_refuses_and_does_not_crash() -> None:
    for public_key in ("00" * 32, "ff" * 32):
        with pytest.raises(Rejected):
            open_envelope(
                SIGNER.envelope(SignedKind.ASSIGNMENT, b"x"), SignedKind.ASSIGNMENT, CoordinatorKey(1, public_key)
            )
