"""JSON numbers to bytes and back for the dtypes of the Open Inference Protocol; raw bytes pass untouched elsewhere."""

from __future__ import annotations

import array
import math
from typing import Any

import msgspec

from edge_agent.front.errors import BadRequest
from edge_agent.worker.wire import DTYPES

# dtype -> array typecode; FP16 and BF16 have no JSON form in the protocol.
_TYPECODES = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP32": "f", "FP64": "d", "BOOL": "B",
}  # fmt: skip

_BOOLS = msgspec.json.Decoder(list[bool])
_INTEGERS = msgspec.json.Decoder(list[int])
_FLOATS = msgspec.json.Decoder(list[float])


def element_bytes(dtype: str) -> int:
    """Bytes per element. Raises BadRequest for BYTES and for names that are no dtype."""
    if dtype == "BYTES":
        raise BadRequest("datatype BYTES is not supported: send numbers")
    if dtype not in DTYPES:
        raise BadRequest(f"unknown datatype {dtype[:40]!r}")
    return DTYPES[dtype][2]


def check_count(name: str, raw: bytes, count: int) -> None:
    """Refuse a JSON array whose commas cannot be those of `count` elements, before any of them is built."""
    if not raw.startswith(b"["):
        raise BadRequest(f"input {name!r}: data is not a list")
    given = raw.count(b",") + 1
    if given != count:
        raise BadRequest(f"input {name!r} has {given} elements, its shape wants {count}")


def json_to_bytes(name: str, dtype: str, raw: bytes, count: int) -> bytes:
    """A JSON array, nested or flat, as `count` little-endian elements. Raises BadRequest with the input's name."""
    typecode = _TYPECODES.get(dtype)
    if typecode is None:
        raise BadRequest(f"input {name!r}: datatype {dtype} has no JSON form, send it as binary data")
    check_count(name, raw, count)
    decoder = _BOOLS if dtype == "BOOL" else _FLOATS if dtype in ("FP32", "FP64") else _INTEGERS
    try:
        flat = decoder.decode(b"[%s]" % raw.translate(None, b"[]"))  # nesting says nothing that the shape does not
        values = array.array(typecode, flat)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"input {name!r} is not {count} numbers of {dtype}: {error}") from None
    except OverflowError:
        raise BadRequest(f"input {name!r}: a number is out of range for {dtype}") from None
    if len(values) != count:
        raise BadRequest(f"input {name!r} has {len(values)} elements, its shape wants {count}")
    if dtype == "FP32" and not all(map(math.isfinite, values)):
        raise BadRequest(f"input {name!r}: a number is out of range for {dtype}")
    return values.tobytes()


def bytes_to_json(name: str, dtype: str, raw: memoryview) -> list[Any]:
    """Elements as JSON numbers. Raises BadRequest when they have no JSON form."""
    typecode = _TYPECODES.get(dtype)
    if typecode is None:
        raise BadRequest(f"output {name!r}: datatype {dtype} has no JSON form, ask for binary_data")
    values = array.array(typecode)
    values.frombytes(raw)
    if dtype == "BOOL":
        return [bool(value) for value in values]
    if dtype in ("FP32", "FP64") and not all(map(math.isfinite, values)):
        raise BadRequest(f"output {name!r} has NaN or infinity, which JSON cannot carry: ask for binary_data")
    return values.tolist()
