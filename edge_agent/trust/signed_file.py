"""One signed TUF file: raw bytes in, typed payload out once the signatures hold; the seam to python-tuf.

Which file must be signed by whom, and which versions and dates count, is chain.py's matter.

The order here is the point: the JSON frame is split into the signed part and the signatures; the signatures
are checked over the canonical form of just these bytes; only then is the signed part given a meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signature
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected
from edge_agent.contract.reasons import Reason

SignedT = TypeVar("SignedT", bound=Signed)


def check_size(raw: bytes, what: str, bytes_max: int) -> None:
    """Raises Rejected (too_large) before anything looks into the bytes."""
    if len(raw) > bytes_max:
        raise Rejected(f"{what} has {len(raw)} bytes, at most {bytes_max} are allowed", reason=Reason.TOO_LARGE)


def open_signed(raw: bytes, kind: type[SignedT], signer: Root) -> SignedT:
    """The payload of a file that `signer` delegates to the role of `kind`.

    Raises Rejected: too_large; malformed; signature (fewer good signatures than the role's threshold).
    """
    check_size(raw, f"{kind.type} metadata", limits.METADATA_BYTES_MAX)
    with _translated(f"{kind.type} metadata"):
        payload, signatures = _split(raw)
        signer.verify_delegate(kind.type, payload, signatures)
        return _meaning(raw, kind)


def open_next_root(raw: bytes, trusted: Root) -> Root:
    """The root file that follows `trusted`, signed by the old and by its own keys (TUF workflow 5.3.4).

    Raises Rejected: too_large; malformed; signature.
    """
    root = open_signed(raw, Root, trusted)
    if root.version != trusted.version + 1:  # 5.3.5: no step may be left out
        raise Rejected(f"the root chain goes from version {trusted.version} to {root.version}", reason=Reason.SIGNATURE)
    _check_own_signatures(raw, root)
    return root


def open_pinned_root(raw: bytes) -> Root:
    """The root that the device pins: trusted for being pinned, checked against itself only to find damage.

    Raises Rejected: too_large; malformed; signature.
    """
    check_size(raw, "the pinned root", limits.METADATA_BYTES_MAX)
    with _translated("the pinned root"):
        root = _meaning(raw, Root)
    _check_own_signatures(raw, root)
    return root


def claimed_version(raw: bytes) -> int:
    """The version that a file *claims*: unverified, good only for passing over roots older than the trusted.

    Raises Rejected: too_large; malformed.
    """
    check_size(raw, "root metadata", limits.METADATA_BYTES_MAX)
    with _translated("root metadata"):
        version = json.loads(raw.decode("utf-8"))["signed"]["version"]
        if type(version) is not int:
            raise ValueError("version is not an integer")
        return version


def _check_own_signatures(raw: bytes, root: Root) -> None:
    with _translated("root metadata"):
        payload, signatures = _split(raw)
        root.verify_delegate(Root.type, payload, signatures)


def _split(raw: bytes) -> tuple[bytes, dict[str, Signature]]:
    """The bytes that were signed (canonical form of the signed part) and the signatures by key id."""
    frame = json.loads(raw.decode("utf-8"))
    signatures: dict[str, Signature] = {}
    for entry in frame["signatures"]:
        signature = Signature.from_dict(entry)
        if not isinstance(signature.keyid, str) or signature.keyid in signatures:
            raise ValueError("a key id is no text or occurs twice among the signatures")
        signatures[signature.keyid] = signature
    payload = encode_canonical(frame["signed"])
    if payload is None:
        raise ValueError("the signed part has no canonical form")
    return payload.encode("utf-8"), signatures


def _meaning(raw: bytes, kind: type[SignedT]) -> SignedT:
    signed = Metadata.from_bytes(raw).signed
    if not isinstance(signed, kind):
        raise TypeError(f"expected {kind.type}, found {signed.type}")
    _check_version(signed.version)
    return signed


def check_meta_version(meta: MetaFile) -> int:
    """The version that one metadata file states of another. Raises Rejected (malformed)."""
    with _translated("metadata"):
        _check_version(meta.version)
    return meta.version


def _check_version(version: object) -> None:
    """python-tuf lets any number through; ours are stored as 64-bit integers."""
    if type(version) is not int or not 1 <= version <= limits.RELEASE_MAX:
        raise ValueError("a version is not a positive integer below 2**53")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate python-tuf's errors. `Exception`: it promises no closed set of errors for hostile bytes."""
    try:
        yield
    except HoldfastError:
        raise
    except UnsignedMetadataError as error:
        raise Rejected(f"{what} is not signed by the keys that its root names", reason=Reason.SIGNATURE) from error
    except Exception as error:
        detail = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise Rejected(f"{what} is not a TUF file: {detail}", reason=Reason.MALFORMED) from error
