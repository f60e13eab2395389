"""Request bodies of the Open Inference Protocol for tests, right unless told otherwise; nothing is sent here."""

from __future__ import annotations

import json
import struct
from typing import Any

from edge_agent.front.protocol import InferRequest, parse_infer
from edge_agent.front.routes import ModelRoute, TensorSpec

BODY_BYTES_MAX = 1 << 20

# dtype -> (struct's letter, values at both ends that JSON can carry)
NUMBERS: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("?", [True, False]),
    "UINT8": ("B", [0, 2**8 - 1]),
    "UINT16": ("H", [0, 2**16 - 1]),
    "UINT32": ("I", [0, 2**32 - 1]),
    "UINT64": ("Q", [0, 2**64 - 1]),
    "INT8": ("b", [-(2**7), 2**7 - 1]),
    "INT16": ("h", [-(2**15), 2**15 - 1]),
    "INT32": ("i", [-(2**31), 2**31 - 1]),
    "INT64": ("q", [-(2**63), 2**63 - 1]),
    "FP32": ("f", [-1.5, 3.4028234663852886e38]),
    "FP64": ("d", [-1.5, 1.7976931348623157e308]),
}


def route(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> ModelRoute:
    """A model that serves; default: x FP32 (free, 2) to y FP32 (free, 2)."""
    return ModelRoute(
        state="serving",
        version="1.0.0",
        digest="d",
        inputs=inputs or (TensorSpec("x", "FP32", (-1, 2)),),
        outputs=outputs or (TensorSpec("y", "FP32", (-1, 2)),),
    )


PAIR = route(TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (2,)))


def tensor(**changes: Any) -> dict[str, Any]:
    """The input x as JSON data; a change to None takes a field away."""
    whole = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0], **changes}
    return {key: value for key, value in whole.items() if value is not None}


def binary(size: Any = 8, **changes: Any) -> dict[str, Any]:
    """The input x as binary data."""
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


def packed(*values: float) -> bytes:
    """Little-endian FP32."""
    return struct.pack(f"<{len(values)}f", *values)


def parse(
    *inputs: dict[str, Any], to: ModelRoute | None = None, raw: bytes | None = None, **fields: Any
) -> InferRequest:
    """Parse a body of these inputs and fields; raw: binary data behind the JSON."""
    head = json.dumps({"inputs": list(inputs), **fields}).encode()
    length = None if raw is None else len(head)
    return parse_infer(head + (raw or b""), length, to or route(), BODY_BYTES_MAX)
