"""What the coordinator signs: the envelope's form and the bytes under its signature. Keys and checks are elsewhere.

A signature is made over the document's kind and its raw bytes, so that no document can pass for one of another kind and
nothing has to be parsed before it is believed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.manifest import Label, Positive, Sha256

COORDINATOR_TARGET_PATH = "coordinator.json"  # the TUF target in which the publisher names the coordinator


class SignedKind(StrEnum):
    """Documents that count only with the coordinator's signature."""

    ASSIGNMENT = "assignment"
    REPORT_ACK = "report_ack"


class Envelope(Struct, frozen=True):
    """A signed document. payload: its raw canonical bytes. signature: Ed25519 over `signing_input`."""

    payload: Annotated[bytes, Meta(max_length=limits.ASSIGNMENT_BYTES_MAX)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


class CoordinatorKey(Struct, frozen=True):
    """The coordinator that the publisher names; a higher epoch voids every assignment of an earlier one.

    public_key: raw Ed25519 key, 32 bytes in hexadecimal.
    """

    epoch: Positive
    public_key: Sha256
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


def signing_input(kind: SignedKind, payload: bytes) -> bytes:
    """The bytes that are signed: format and kind on a line of their own, then the document."""
    return f"holdfast-1 {kind.value}\n".encode() + payload


def parse_envelope(raw: bytes) -> Envelope:
    """Raises Rejected: too_large or malformed. Its signature is not checked here."""
    return canonical.decode(raw, Envelope, bytes_max=limits.ENVELOPE_BYTES_MAX)


def parse_coordinator_key(raw: bytes) -> CoordinatorKey:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, CoordinatorKey, bytes_max=limits.COORDINATOR_KEY_BYTES_MAX)
