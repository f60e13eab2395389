"""The coordinator that the publisher names, and what it signs. What it may want is `core`'s; no key is made here."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_agent.contract import limits
from edge_agent.contract.envelope import (
    COORDINATOR_TARGET_PATH,
    CoordinatorKey,
    SignedKind,
    parse_coordinator_key,
    parse_envelope,
    signing_input,
)
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import Evidence
from edge_agent.contract.reasons import Reason
from edge_agent.trust.chain import verify_target
from edge_agent.trust.signed_file import check_size


def verify_coordinator(evidence: Evidence, raw: bytes, pinned_root: bytes) -> CoordinatorKey:
    """The coordinator of this evidence; dates do not count, for a key rotation must reach a device with a wrong clock.

    Raises Rejected: too_large, malformed, signature.
    """
    check_size(raw, COORDINATOR_TARGET_PATH, limits.COORDINATOR_KEY_BYTES_MAX)
    verify_target(evidence, COORDINATOR_TARGET_PATH, raw, pinned_root)
    return parse_coordinator_key(raw)


def open_envelope(raw: bytes, kind: SignedKind, coordinator: CoordinatorKey) -> bytes:
    """The raw document, once the coordinator's signature over it and its kind holds.

    Raises Rejected: too_large, malformed, signature.
    """
    envelope = parse_envelope(raw)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(coordinator.public_key))
    try:
        key.verify(envelope.signature, signing_input(kind, envelope.payload))
    except InvalidSignature as error:
        raise Rejected(
            f"this {kind.value} is not signed by the coordinator that the publisher names",
            reason=Reason.SIGNATURE,
            next_step="Look for a coordinator with another key: `fleet coordinator authorize` names a new one",
        ) from error
    return envelope.payload
