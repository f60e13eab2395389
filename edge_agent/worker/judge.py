"""Whether a loaded model reproduces its golden vectors; what a failed proof leads to is not decided here."""

from __future__ import annotations

import io
import os
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from edge_agent.worker import wire
from edge_agent.worker.engines.base import TensorSpec

GOLDEN_BYTES_MAX = 1 << 30


class GoldenMalformed(Exception):
    """The golden files do not fit the manifest."""


class Golden(NamedTuple):
    """Golden vectors: per tensor, in manifest order, an array of shape (count, *tensor shape)."""

    vectors: int
    inputs: List[np.ndarray]
    outputs: List[np.ndarray]


class Verdict(NamedTuple):
    """Outcome of a proof. reason: None, "proof" or "non_finite"; errors are the largest seen."""

    passed: bool
    vectors: int
    max_abs_error: float
    max_rel_error: float
    reason: Optional[str]
    detail: str


def read_golden(
    fds: Dict[str, int],
    golden: Dict[str, object],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Golden:
    """Golden arrays from sealed files (.npy, no pickles). Raises GoldenMalformed."""
    count = golden.get("count")
    if not isinstance(count, int) or count < 1:
        raise GoldenMalformed("golden count is %r" % (count,))
    sides = []
    for side, specs in (("inputs", inputs), ("outputs", outputs)):
        names = golden.get(side)
        if not isinstance(names, dict):
            raise GoldenMalformed("golden %s are missing" % side)
        sides.append([_read_array(fds, names, spec, count) for spec in specs])
    return Golden(count, sides[0], sides[1])


def _read_array(fds: Dict[str, int], names: Dict[str, str], spec: TensorSpec, count: int) -> np.ndarray:
    fd = fds.get(names.get(spec.name, ""))
    if fd is None:
        raise GoldenMalformed("no golden file for %r" % spec.name)
    size = os.fstat(fd).st_size
    if size > GOLDEN_BYTES_MAX:
        raise GoldenMalformed("the golden file for %r has %d bytes" % (spec.name, size))
    try:
        value = np.load(io.BytesIO(os.pread(fd, size, 0)), allow_pickle=False)
    except Exception as error:  # numpy's reader raises whatever its parsers raise, MemoryError and BadZipFile too
        raise GoldenMalformed("the golden file for %r is no .npy file: %s" % (spec.name, error)) from error
    if not isinstance(value, np.ndarray) or value.ndim < 1 or value.shape[0] != count:
        raise GoldenMalformed("the golden file for %r does not hold %d vectors" % (spec.name, count))
    if value.dtype.name != wire.DTYPES[spec.dtype][1]:
        raise GoldenMalformed("golden %r is %s, the manifest says %s" % (spec.name, value.dtype, spec.dtype))
    fault = wire.shape_fault(spec.shape, value.shape[1:])
    if fault:
        raise GoldenMalformed("golden %r %s" % (spec.name, fault))
    return np.ascontiguousarray(value)


def prove(
    run: Callable[[List[np.ndarray]], List[np.ndarray]],
    golden: Golden,
    rtol: float,
    atol: float,
    vector_only: Optional[int] = None,
) -> Verdict:
    """Run every golden vector, or this one, and compare: abs(a - b) <= atol + rtol * abs(b), same dtype, same shape."""
    worst_abs = worst_rel = 0.0
    for vector in range(golden.vectors) if vector_only is None else (vector_only,):
        got = run([np.ascontiguousarray(value[vector]) for value in golden.inputs])
        for position, reference in enumerate(golden.outputs):
            expected, answer = reference[vector], got[position]
            if answer.shape != expected.shape or answer.dtype != expected.dtype:
                text = "output %d is %s %s, signed was %s %s" % (
                    position, answer.dtype, answer.shape, expected.dtype, expected.shape,
                )  # fmt: skip
                return Verdict(False, vector + 1, worst_abs, worst_rel, "proof", text)
            if not _as_finite(answer, expected):
                return Verdict(
                    False,
                    vector + 1,
                    worst_abs,
                    worst_rel,
                    "non_finite",
                    "output %d is not finite" % position,
                )
            worst_abs, worst_rel, agrees = _worse(answer, expected, rtol, atol, worst_abs, worst_rel)
            if not agrees:
                text = "golden vector %d: output %d is off by %.3g, allowed is %.3g + %.3g * |signed|" % (
                    vector, position, worst_abs, atol, rtol,
                )  # fmt: skip
                return Verdict(False, vector + 1, worst_abs, worst_rel, "proof", text)
    return Verdict(True, golden.vectors if vector_only is None else 1, worst_abs, worst_rel, None, "")


def _as_finite(answer: np.ndarray, expected: np.ndarray) -> bool:
    """Non-finite numbers only where the signed output has them too."""
    if answer.dtype.kind != "f":
        return True
    return bool((np.isfinite(answer) | ~np.isfinite(expected)).all())


def _worse(
    answer: np.ndarray, expected: np.ndarray, rtol: float, atol: float, worst_abs: float, worst_rel: float
) -> "tuple[float, float, bool]":
    if answer.dtype.kind != "f":
        same = bool((answer == expected).all())
        return (worst_abs if same else 1.0), worst_rel, same
    a, b = answer.astype("f8"), expected.astype("f8")
    agrees = bool(np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True).all())
    finite = np.isfinite(a) & np.isfinite(b)
    difference = np.abs(np.where(finite, a, 0.0) - np.where(finite, b, 0.0))
    relative = difference / np.maximum(np.abs(np.where(finite, b, 1.0)), 1e-12)
    return (
        max(worst_abs, float(difference.max(initial=0.0))),
        max(worst_rel, float(relative.max(initial=0.0))),
        agrees,
    )
