"""What two snapshots decided about the same request: alike or not, and which bucket a decision falls into; pure, numpy.
Counting is `observing`'s; what follows from the counts is decided in the runtime's core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.contract.tally import DECISION_BUCKETS
from edge_agent.front.protocol import OutputTensor
from edge_agent.worker.wire import DTYPES

VALUE_RATIO = 0.10  # single numbers so close are one decision: thresholds that depend on them are seldom finer
VALUE_FLOOR = 1e-6  # beside zero a ratio says nothing
MAGNITUDES = (DECISION_BUCKETS - 2) // 2  # powers of two told apart on either side of zero, around 1
FLOATS = ("FP16", "FP32", "FP64", "BF16")


def are_finite(outputs: Sequence[OutputTensor]) -> bool:
    """Whether no float output has NaN or infinity."""
    return all(bool(np.isfinite(_values(output)).all()) for output in outputs if output.dtype in FLOATS)


def decide_alike(some: Sequence[OutputTensor], others: Sequence[OutputTensor]) -> bool:
    """Whether all outputs say the same: the same largest entry of every row, or the same numbers within VALUE_RATIO."""
    return len(some) == len(others) and all(_alike(one, other) for one, other in zip(some, others, strict=True))


def decision_bucket(outputs: Sequence[OutputTensor]) -> int | None:
    """The bucket of what the first row of the first output decides; None when there is none.

    Rows: the place of the largest entry, modulo DECISION_BUCKETS. Single numbers: 0 for zero and for what is no number,
    then powers of two of positive ones, then of negative ones.
    """
    if not outputs:
        return None
    values = _values(outputs[0])
    if not values.size:
        return None
    if _has_rows(outputs[0]):
        row = values.reshape(-1, outputs[0].dims[-1])[0]
        return int(row.argmax()) % DECISION_BUCKETS
    return _bucket_of_number(float(values.flat[0]))


def _alike(one: OutputTensor, other: OutputTensor) -> bool:
    if (one.dtype, one.dims) != (other.dtype, other.dims):
        return False
    mine, others = _values(one), _values(other)
    if one.dtype == "BOOL":
        return bool((mine == others).all())
    if _has_rows(one):
        return bool((mine.argmax(axis=-1) == others.argmax(axis=-1)).all()) if mine.size else True
    mine, others = mine.astype(np.float64), others.astype(np.float64)
    larger = np.maximum(np.abs(mine), np.abs(others))
    return bool((np.abs(mine - others) <= np.maximum(VALUE_RATIO * larger, VALUE_FLOOR)).all())


def _has_rows(output: OutputTensor) -> bool:
    return len(output.dims) > 0 and output.dims[-1] >= 2


def _bucket_of_number(value: float) -> int:
    if not math.isfinite(value) or value == 0:
        return 0
    power = math.frexp(value)[1] + MAGNITUDES // 2
    magnitude = min(max(power, 0), MAGNITUDES - 1)
    return 1 + magnitude + (MAGNITUDES if value < 0 else 0)


def _values(output: OutputTensor) -> np.ndarray[Any, Any]:
    """The output's numbers, in its shape; a view where its dtype is numpy's."""
    values = np.frombuffer(output.data, dtype=DTYPES[output.dtype][1])
    if output.dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(output.dims)
