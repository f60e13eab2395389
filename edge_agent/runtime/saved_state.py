"""The lifecycle state of a slot as a saved document, and back; when it is saved is `executor`'s.

A document may be another agent's, older or newer: what this one can read of it is kept record by record, the rest is
left to what a boot finds out anew.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from edge_agent.contract.reasons import Reason
from edge_agent.core.state import ModelState, Quarantine, RefusedOffer, Status, persistent_part

_TYPES = get_type_hints(ModelState)
_RECORDS = (Quarantine, RefusedOffer)


def encode_state(state: ModelState) -> bytes:
    """The persistent part of a state as JSON."""
    return msgspec.json.encode(persistent_part(state))


def decode_state(raw: bytes) -> ModelState | None:
    """A saved state, or None when nothing of it can be believed (it is then rebuilt from what verifies)."""
    try:
        state = msgspec.json.decode(raw, type=ModelState)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _what_can_be_read(raw)
    return None if state.fault() else state


def _what_can_be_read(raw: bytes) -> ModelState | None:
    """The fields, and of lists the records, that have a form known here: what failed stays failed, what was confirmed
    stays confirmed. What serves is found out by the boot when its status has a word that is not known here.
    """
    try:
        document = msgspec.json.decode(raw)
        read = {name: _read(_TYPES[name], document[name]) for name in _field_names() if name in document}
        if read["generation"] is _UNREADABLE:
            return None  # without it nobody knows which records of quarantine hold
        state = ModelState(**{name: value for name, value in read.items() if value is not _UNREADABLE})
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if state.fault():
        state = replace(state, status=Status.EMPTY, active=None, raising=None, candidate=None)
    return None if state.fault() else state


_UNREADABLE = object()


def _field_names() -> list[str]:
    return [field.name for field in fields(ModelState)]


def _read(kind: Any, value: Any) -> Any:
    """The value as this type; of a tuple the records that can be read; `_UNREADABLE` if it cannot."""
    if get_origin(kind) is tuple and isinstance(value, list):
        found = (_read(get_args(kind)[0], one) for one in value)
        return tuple(one for one in found if one is not _UNREADABLE)
    if kind in _RECORDS:
        value = _with_known_reason(value)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return _UNREADABLE


def _with_known_reason(record: Any) -> Any:
    """What failed for a reason that is not known here has failed all the same: the word goes into the detail."""
    if not isinstance(record, dict) or not isinstance(word := record.get("reason"), str):
        return record
    if any(word == reason.value for reason in Reason):
        return record
    return {**record, "reason": Reason.QUARANTINED.value, "detail": f"{word}: {record.get('detail', '')}"}
