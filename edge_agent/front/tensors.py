"""JSON numbers to bytes and back for the dtypes of the Open Inference Protocol; raw bytes pass untouched elsewhere."""

from __future__ import annotations

import array
import math
from typing import Any

from edge_agent.front.errors import BadRequest
from edge_agent.worker.wire import DTYPES

# dtype -> array typecode; FP16 and BF16 have no JSON form in the protocol.
_TYPECODES = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP32": "f", "FP64": "d", "BOOL": "B",
}  # fmt: skip


def element_bytes(dtype: str) -> int:
    """Bytes per element. Raises BadRequest for BYTES and for names that are no dtype."""
    if dtype == "BYTES":
        raise BadRequest("datatype BYTES is not supported: send numbers")
    if dtype not in DTYPES:
        raise BadRequest(f"unknown datatype {dtype[:40]!r}")
    return DTYPES[dtype][2]


def json_to_bytes(name: str, dtype: str, data: Any, count: int) -> bytes:
    """Nested or flat JSON numbers as `count` little-endian elements. Raises BadRequest with the input's name."""
    typecode = _TYPECODES.get(dtype)
    if typecode is None:
        raise BadRequest(f"input {name!r}: datatype {dtype} has no JSON form, send it as binary data")
    flat = _flatten(name, data, count)
    if len(flat) != count:
        raise BadRequest(f"input {name!r} has {len(flat)} elements, its shape wants {count}")
    kinds = {type(value) for value in flat}
    allowed = {bool} if dtype == "BOOL" else {int, float} if dtype in ("FP32", "FP64") else {int}
    if not kinds <= allowed:
        odd = next(kind.__name__ for kind in kinds if kind not in allowed)
        raise BadRequest(f"input {name!r}: {odd} is no {dtype}")
    try:
        return array.array(typecode, flat).tobytes()
    except OverflowError:
        raise BadRequest(f"input {name!r}: a number is out of range for {dtype}") from None


def _flatten(name: str, data: Any, count: int) -> list[Any]:
    """Depth first, and no more than `count` elements: what is longer is refused before it is copied."""
    if not isinstance(data, list):
        raise BadRequest(f"input {name!r}: data is not a list")
    flat = data
    while any(type(value) is list for value in flat):  # bounded by the depth that the parser admits
        if not all(type(value) is list for value in flat):
            raise BadRequest(f"input {name!r}: data mixes numbers and lists")
        flat = [value for inner in flat for value in inner]
        if len(flat) > count:
            raise BadRequest(f"input {name!r} has more than the {count} elements of its shape")
    return flat


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
