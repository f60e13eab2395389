"""The largest legal value of a document type, built from its declared bounds. Whether it fits is the tests' to ask."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from edge_agent.contract import limits

HEX_CHARS = 64
ESCAPED = "\x01"  # six bytes in JSON: no character takes more
LONG_FLOAT = 1.2345678901234567e-300  # as many digits as a number can have
LONG_FRACTION = 0.12345678901234566


class Unbounded(AssertionError):
    """A place in a document has no bound, so no bound of the whole can be told."""


def largest(kind: type[Any]) -> Any:
    """A value of this struct of which each text, list, dictionary and number is as long as its type lets it be."""
    return msgspec.convert(_largest(inspect.type_info(kind), kind.__name__), kind)


def _largest(info: inspect.Type, place: str) -> Any:
    match info:
        case inspect.StructType():
            fields = {field.name: _largest(field.type, f"{place}.{field.name}") for field in info.fields}
            if "must_understand" in fields:  # any other name would refuse the document
                longest = max(fields, key=len)
                fields["must_understand"] = [longest] * len(fields["must_understand"])
            return fields
        case inspect.UnionType():
            return max((_largest(one, place) for one in info.types), key=_json_bytes)
        case inspect.LiteralType():
            return max(info.values, key=_json_bytes)
        case inspect.EnumType():
            return max((member.value for member in info.cls), key=_json_bytes)
        case inspect.StrType():
            return _text(info, place)
        case inspect.IntType() if info.le is not None:
            return info.le
        case inspect.FloatType():
            return LONG_FLOAT if not info.ge else info.ge + LONG_FRACTION
        case inspect.BoolType():
            return False
        case inspect.NoneType():
            return None
        case inspect.VarTupleType() if info.max_length is not None:
            return [_largest(info.item_type, f"{place}[]")] * info.max_length
        case inspect.DictType():
            bound = limits.MODELS_PER_DEVICE_MAX if place == "Assignment.models" else info.max_length
            if bound is None:  # parse_assignment counts the models itself, for a better word than malformed
                raise Unbounded(f"{place}: a dictionary without a bound")
            key, value = _largest(info.key_type, f"{place} key"), _largest(info.value_type, f"{place}{{}}")
            return {f"{number:04}{key[4:]}": value for number in range(bound)}
    raise Unbounded(f"{place}: {info}")


def _text(info: inspect.StrType, place: str) -> str:
    """Texts with a pattern are of ASCII letters and digits at their longest, others are all escapes."""
    if info.pattern is not None and "{64}" in info.pattern:
        return "0" * HEX_CHARS
    if info.max_length is None:
        raise Unbounded(f"{place}: a text without a longest length")
    return ("a" if info.pattern is not None else ESCAPED) * info.max_length


def _json_bytes(value: Any) -> int:
    return len(msgspec.json.encode(value))
