"""A tiny deterministic engine on numpy with a model format of its own, so that fault campaigns are fast.

Format "holdfast-numpy": the program is JSON {"format": 1, "layers": [...]}, the parameters are the layers' weights as
little-endian float32 in order. Layers: {"op": "dense", "inputs": n, "outputs": m} (n*m weights, then m biases),
{"op": "relu"}, {"op": "softmax"}. The first input is flattened per row; one float32 output of shape (rows, m).

Test models may misbehave on purpose, and always in the same way: {"op": "fault", "when": "load" | "run" | "poison",
"kind": "hang" | "abort" | "segfault" | "exit" | "nan" | "garbage" | "slow" | "grow" | "raise", "amount": x,
"after": n}. "poison" acts only on a request whose first number is `amount`; none acts on the first n runs of a process.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from typing import Any, Dict, List, Sequence

import numpy as np

from edge_agent.worker.engines.base import Engine, LoadRefused, ModelFiles, TensorSpec

PROGRAM_BYTES_MAX = 1 << 20
PARAMETERS_BYTES_MAX = 1 << 30
OPS = ("dense", "relu", "softmax", "fault")
KINDS = ("hang", "abort", "segfault", "exit", "nan", "garbage", "slow", "grow", "raise")


class NumpyEngine(Engine):
    """One stack of layers."""

    name = "numpy"
    version = np.__version__

    def __init__(self) -> None:
        self._layers: List[Dict[str, Any]] = []
        self._grown: List[np.ndarray] = []
        self._runs = 0

    def load(
        self,
        files: ModelFiles,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: Dict[str, Any],
    ) -> None:
        """Raises LoadRefused for anything that is not exactly such a model."""
        if files.format != "holdfast-numpy" or files.parameters_fd < 0:
            raise LoadRefused("the numpy engine loads format holdfast-numpy with parameters, not %r" % files.format)
        layers = _parse_program(_read(files.program_fd, PROGRAM_BYTES_MAX))
        weights = np.frombuffer(_read(files.parameters_fd, PARAMETERS_BYTES_MAX), dtype="<f4")
        at = 0
        for layer in layers:
            if layer["op"] == "dense":
                rows, columns = layer["inputs"], layer["outputs"]
                end = at + rows * columns + columns
                if end > weights.size:
                    raise LoadRefused("the parameters end inside a layer")
                layer["matrix"] = weights[at : at + rows * columns].reshape(rows, columns)
                layer["bias"] = weights[end - columns : end]
                at = end
            elif layer["op"] == "fault" and layer["when"] == "load":
                self._misbehave(layer, None)
        if at != weights.size:
            raise LoadRefused("the parameters have %d numbers, the layers %d" % (weights.size, at))
        self._layers = layers

    def run(self, arrays: List[np.ndarray]) -> List[np.ndarray]:
        """arrays[0]: (rows, ...) float32. Answers one array (rows, outputs) float32."""
        value = arrays[0].reshape(arrays[0].shape[0], -1).astype("<f4", copy=False)
        first = float(value.flat[0]) if value.size else 0.0
        self._runs += 1
        for layer in self._layers:
            op = layer["op"]
            if op == "dense":
                value = value @ layer["matrix"] + layer["bias"]
            elif op == "relu":
                value = np.maximum(value, 0)
            elif op == "softmax":
                exponent = np.exp(value - value.max(axis=1, keepdims=True))
                value = exponent / exponent.sum(axis=1, keepdims=True)
            elif self._runs > layer["after"] and _acts(layer, first):
                value = self._misbehave(layer, value)
        return [np.ascontiguousarray(value, dtype="<f4")]

    def _misbehave(self, layer: Dict[str, Any], value: Any) -> Any:
        kind, amount = layer["kind"], layer["amount"]
        if kind == "hang":
            threading.Event().wait()
        elif kind == "abort":
            os.abort()
        elif kind == "segfault":
            ctypes.string_at(8)
        elif kind == "exit":
            os._exit(3)
        elif kind == "slow":
            time.sleep(amount / 1000.0)
        elif kind == "grow":
            self._grown.append(np.ones(int(amount), dtype="u1"))
        elif kind == "raise":
            raise RuntimeError("this model raises on purpose")
        elif kind == "nan" and value is not None:
            return np.full_like(value, np.nan)
        elif kind == "garbage" and value is not None:
            return value[:, ::-1] * np.float32(3.0) + np.float32(1.0)
        return value


def _acts(layer: Dict[str, Any], first: float) -> bool:
    return bool(layer["when"] == "run" or (layer["when"] == "poison" and first == layer["amount"]))


def _read(fd: int, bytes_max: int) -> bytes:
    """All bytes of a file; our own descriptor is left as it was."""
    size = os.fstat(fd).st_size
    if size > bytes_max:
        raise LoadRefused("a model file has %d bytes, at most %d are allowed" % (size, bytes_max))
    return os.pread(fd, size, 0)


def _parse_program(raw: bytes) -> List[Dict[str, Any]]:
    try:
        program = json.loads(raw.decode("utf-8"))
        layers = program["layers"]
        if program["format"] != 1 or not isinstance(layers, list) or not 0 < len(layers) <= 64:
            raise LoadRefused("the program is not format 1 with 1 to 64 layers")
        return [_parse_layer(dict(layer)) for layer in layers]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LoadRefused("the program cannot be read: %s" % error) from error


def _parse_layer(layer: Dict[str, Any]) -> Dict[str, Any]:
    op = layer.get("op")
    if op not in OPS:
        raise LoadRefused("unknown op %r" % (op,))
    if op == "dense":
        sizes = layer["inputs"], layer["outputs"]
        if not all(isinstance(size, int) and 0 < size <= 1 << 20 for size in sizes):
            raise LoadRefused("a dense layer has sizes %r" % (sizes,))
    if op == "fault":
        if layer.get("when") not in ("load", "run", "poison") or layer.get("kind") not in KINDS:
            raise LoadRefused("a fault has to say when and what")
        layer["amount"] = float(layer.get("amount", 0))
        layer["after"] = int(layer.get("after", 0))
    return layer
