"""One loaded, proven model inside a worker: load, prove, compute on a shared slot. Sockets are `serve`'s."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from edge_agent.worker import judge, wire
from edge_agent.worker.engines.base import Engine, LoadRefused, ModelFiles, TensorSpec

ALIGNMENT_BYTES = 64  # outputs begin on a cache line


class LoadOutcome(Exception):
    """A load that did not end in a proven model: word for the runtime, and one line of detail."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(detail)
        self.word = word
        self.detail = detail


class Loaded(NamedTuple):
    """What is in this worker."""

    digest: str
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    golden: judge.Golden
    rtol: float
    atol: float


def load_model(engine: Engine, request: Dict[str, Any], fds: Sequence[int]) -> Tuple[Loaded, Dict[str, Any]]:
    """Load and prove what the request names; the model and the fields of the answer. Raises LoadOutcome."""
    try:
        files, inputs, outputs = _parse(request, fds)
        by_name = {str(entry["name"]): fd for entry, fd in zip(request["files"], fds)}
        rtol, atol = (_tolerance(request["tolerance"][name]) for name in ("rtol", "atol"))
        golden = judge.read_golden(by_name, request["golden"], inputs, outputs)
    except judge.GoldenMalformed as error:
        raise LoadOutcome("malformed", str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LoadOutcome("malformed", "load request: %s %s" % (type(error).__name__, error)) from error
    loaded = Loaded(str(request.get("digest")), inputs, outputs, golden, rtol, atol)
    started = time.monotonic()
    try:
        engine.load(files, inputs, outputs, request.get("options") or {})
        load_ms = (time.monotonic() - started) * 1000
        first = time.monotonic()
        engine.run([np.ascontiguousarray(value[0]) for value in golden.inputs])
        first_run_ms = (time.monotonic() - first) * 1000
        verdict = judge.prove(engine.run, golden, rtol, atol)
    except LoadRefused as error:
        raise LoadOutcome("load_failed", str(error)) from error
    except MemoryError as error:
        raise LoadOutcome("memory", "out of memory while loading") from error
    except Exception as error:  # an engine may raise anything at its first run
        raise LoadOutcome("load_failed", "%s: %s" % (type(error).__name__, str(error)[:300])) from error
    if not verdict.passed:
        raise LoadOutcome(verdict.reason or "proof", verdict.detail)
    return loaded, {
        "load_ms": round(load_ms, 3),
        "first_run_ms": round(first_run_ms, 3),
        "resident_bytes": resident_bytes(),
        "device": engine.device(),
        "engine": engine.name,
        "engine_version": engine.version,
        "proof": verdict_fields(verdict),
    }


def verdict_fields(verdict: judge.Verdict) -> Dict[str, Any]:
    """A verdict as it travels."""
    return {
        "passed": verdict.passed,
        "vectors": verdict.vectors,
        "max_abs_error": verdict.max_abs_error,
        "max_rel_error": verdict.max_rel_error,
        "detail": verdict.detail,
    }


def _parse(
    request: Dict[str, Any], fds: Sequence[int]
) -> Tuple[ModelFiles, Tuple[TensorSpec, ...], Tuple[TensorSpec, ...]]:
    entries = request["files"]
    if len(entries) != len(fds):
        raise ValueError("%d files, %d descriptors" % (len(entries), len(fds)))
    roles = {str(entry["role"]): fd for entry, fd in zip(entries, fds)}
    if "program" not in roles:
        raise ValueError("no file has the role program")
    files = ModelFiles(str(request["format"]), roles["program"], roles.get("parameters", -1))
    return files, _specs(request["inputs"]), _specs(request["outputs"])


def _specs(entries: Sequence[Dict[str, Any]]) -> Tuple[TensorSpec, ...]:
    specs = tuple(TensorSpec(str(e["name"]), str(e["dtype"]), tuple(int(d) for d in e["shape"])) for e in entries)
    for spec in specs:
        if spec.dtype not in wire.DTYPES:
            raise ValueError("dtype %r" % spec.dtype)
    return specs


def _tolerance(value: Any) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):  # an infinite one would accept any answer
        raise ValueError("tolerance %r" % value)
    return number


def compute(
    engine: Engine, loaded: Optional[Loaded], request: wire.DataRequest, slot: memoryview
) -> Tuple[wire.DataReply, bool]:
    """Run one request whose inputs lie in `slot`; the reply, and whether all outputs are finite.

    Whatever does not fit is a reply, never an exception: a wrong array would break a legacy predictor for good.
    """
    if loaded is None:
        return wire.DataReply(request.request_id, wire.NOT_LOADED, (), "no model is loaded"), True
    fault = _input_fault(loaded, request, len(slot))
    if fault:
        return wire.DataReply(request.request_id, wire.BAD_REQUEST, (), fault), True
    arrays = [_array(slot, tensor) for tensor in request.inputs]
    try:
        results = engine.run(arrays)
    except Exception as error:  # an engine may raise anything; the worker lives on
        text = "%s: %s" % (type(error).__name__, str(error)[:500])
        return wire.DataReply(request.request_id, wire.ENGINE_ERROR, (), text), True
    end = max((tensor.offset + tensor.nbytes for tensor in request.inputs), default=0)
    return _write(loaded, request.request_id, results, slot, end)


def _input_fault(loaded: Loaded, request: wire.DataRequest, slot_bytes: int) -> Optional[str]:
    if len(request.inputs) != len(loaded.inputs):
        return "%d inputs, the model wants %d" % (len(request.inputs), len(loaded.inputs))
    for position, (tensor, spec) in enumerate(zip(request.inputs, loaded.inputs)):
        if tensor.position != position or tensor.dtype != spec.dtype:
            return "input %d is %s, the model wants %s" % (position, tensor.dtype, spec.dtype)
        fault = wire.shape_fault(spec.shape, tensor.dims)
        if fault:
            return "input %r %s" % (spec.name, fault)
        expected = wire.element_count(tensor.dims) * wire.DTYPES[tensor.dtype][2]
        if tensor.nbytes != expected or tensor.offset + tensor.nbytes > slot_bytes:
            return "input %r has %d bytes at %d in a slot of %d" % (
                spec.name,
                tensor.nbytes,
                tensor.offset,
                slot_bytes,
            )
    return None


def _array(slot: memoryview, tensor: wire.Tensor) -> np.ndarray:
    """A view on shared memory: the engine copies it, nobody else does."""
    dtype = wire.DTYPES[tensor.dtype][1]
    count = wire.element_count(tensor.dims)
    return np.frombuffer(slot, dtype=dtype, count=count, offset=tensor.offset).reshape(tensor.dims)


def _write(
    loaded: Loaded, request_id: int, results: List[np.ndarray], slot: memoryview, at: int
) -> Tuple[wire.DataReply, bool]:
    outputs, finite = [], True
    for index, (spec, result) in enumerate(zip(loaded.outputs, results)):
        value = np.ascontiguousarray(result)
        if value.dtype.name != wire.DTYPES[spec.dtype][1]:
            text = "output %r is %s, the manifest says %s" % (spec.name, value.dtype, spec.dtype)
            return wire.DataReply(request_id, wire.ENGINE_ERROR, (), text), True
        at = (at + ALIGNMENT_BYTES - 1) // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        if at + value.nbytes > len(slot):
            text = "outputs need %d bytes, the slot has %d" % (at + value.nbytes, len(slot))
            return wire.DataReply(request_id, wire.OUTPUT_TOO_LARGE, (), text), True
        if value.nbytes:
            slot[at : at + value.nbytes] = value.reshape(-1).view("u1").data
        finite = finite and (value.dtype.kind != "f" or bool(np.isfinite(value).all()))
        outputs.append(wire.Tensor(index, spec.dtype, tuple(value.shape), at, value.nbytes))
        at += value.nbytes
    return wire.DataReply(request_id, wire.OK, tuple(outputs), ""), finite


def resident_bytes() -> int:
    """Resident set of this process, in bytes (statm counts pages)."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
