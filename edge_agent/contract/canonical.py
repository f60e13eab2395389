"""Canonical JSON (RFC 8785) in both directions, bounded; what the documents mean is defined beside it.

Encoding uses the `rfc8785` package; decoding refuses bytes that are not the canonical form of their content,
so that one document has exactly one digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
import rfc8785

from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason

T = TypeVar("T")


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of the bytes as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def encode(document: Any) -> bytes:
    """The canonical bytes of a msgspec struct or of plain JSON data.

    Raises Rejected (malformed) for what JSON cannot carry exactly: NaN, infinity, integers beyond 2**53.
    """
    try:
        return rfc8785.dumps(msgspec.to_builtins(document))
    except (rfc8785.CanonicalizationError, TypeError, ValueError) as error:
        raise Rejected(f"not expressible as canonical JSON: {error}", reason=Reason.MALFORMED) from error


def decode(raw: bytes, kind: type[T], *, bytes_max: int) -> T:
    """Parse canonical JSON into `kind` (a frozen struct), checking size, depth, form and field types.

    Raises Rejected: too_large, or malformed with the place of the first fault. Never another error.
    """
    if len(raw) > bytes_max:
        raise Rejected(
            f"{kind.__name__} has {len(raw)} bytes, at most {bytes_max} are allowed", reason=Reason.TOO_LARGE
        )
    _check_depth(raw, kind.__name__)
    try:
        plain = msgspec.json.decode(raw)
        if rfc8785.dumps(plain) != raw:
            raise Rejected(f"{kind.__name__} is not in canonical form (RFC 8785)", reason=Reason.MALFORMED)
        _check_must_understand(plain, kind)
        return msgspec.convert(plain, kind, strict=True)
    except Rejected:
        raise
    except (msgspec.MsgspecError, rfc8785.CanonicalizationError, ValueError, RecursionError) as error:
        raise Rejected(f"{kind.__name__} is malformed: {error}", reason=Reason.MALFORMED) from error


def _check_depth(raw: bytes, what: str) -> None:
    """Refuse deep nesting before any parser recurses (brackets inside strings count too: harmless, rare)."""
    depth = depth_seen = 0
    for bracket in raw.translate(None, delete=_NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        depth_seen = max(depth_seen, depth)
    if depth_seen > limits.JSON_DEPTH_MAX:
        raise Rejected(
            f"{what} is nested {depth_seen} deep, at most {limits.JSON_DEPTH_MAX} is allowed",
            reason=Reason.MALFORMED,
        )


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _check_must_understand(plain: Any, kind: type[Any]) -> None:
    """A field named in must_understand that this version does not know refuses the whole document."""
    if not isinstance(plain, dict):
        return
    wanted = plain.get("must_understand", [])
    if not isinstance(wanted, list) or len(wanted) > limits.MUST_UNDERSTAND_MAX:
        raise Rejected(f"{kind.__name__}: must_understand is not a short list", reason=Reason.MALFORMED)
    refuse_unknown(wanted, kind)


def refuse_unknown(wanted: Iterable[Any], kind: type[Any]) -> None:
    """Raises Rejected (malformed) when `must_understand` of a document of this kind names a field that it lacks."""
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    unknown = sorted(
        str(name)[: limits.NAME_CHARS_MAX] for name in wanted if not isinstance(name, str) or name not in known
    )
    if unknown:
        raise Rejected(
            f"{kind.__name__} needs fields that this version does not understand: {', '.join(unknown[:5])}",
            reason=Reason.MALFORMED,
            next_step="Upgrade this side to a version that understands them",
        )
