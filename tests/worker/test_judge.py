"""Tolerances, numbers that are none, dtypes and shapes of a proof; hostile golden files. No process runs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.worker import judge
from edge_agent.worker.engines.base import TensorSpec
from tests.worker.stand import sealed

SPEC = TensorSpec("x", "FP32", (-1, 4))
NAN, INF = float("nan"), float("inf")


def verdict_on(
    answer: object, signed: object, *, dtype: str = "f4", rtol: float = 1e-5, atol: float = 1e-5
) -> judge.Verdict:
    """One golden vector: this answer where that was signed."""
    expected = np.asarray(signed, dtype)[None]
    golden = judge.Golden(1, [np.zeros((1, 1, 4), "f4")], [expected])
    return judge.prove(lambda arrays: [np.asarray(answer, dtype)], golden, rtol, atol)


@pytest.mark.parametrize(
    ("answer", "signed", "rtol", "atol", "passed"),
    [
        (1.0, 1.0, 0.0, 0.0, True),
        (1.0, np.nextafter(np.float32(1), np.float32(2)), 0.0, 0.0, False),
        (1.009, 1.0, 0.0, 0.01, True),
        (1.011, 1.0, 0.0, 0.01, False),
        (100.9, 100.0, 0.01, 0.0, True),
        (101.1, 100.0, 0.01, 0.0, False),
        (101.05, 100.0, 0.01, 0.1, True),  # both allowances add up
        (0.0, 1e-7, 1e-3, 0.0, False),  # relative to what was signed, however small
        (-1.0, 1.0, 1e-5, 1e-5, False),
    ],
)
def test_an_answer_may_be_off_by_the_tolerance_and_no_more(
    answer: float, signed: float, rtol: float, atol: float, passed: bool
) -> None:
    verdict = verdict_on([answer], [signed], rtol=rtol, atol=atol)
    assert verdict.passed is passed
    assert verdict.reason == (None if passed else "proof")


def test_the_allowance_is_relative_to_what_was_signed_and_not_to_the_answer() -> None:
    assert not verdict_on([2.0], [1.0], rtol=0.6, atol=0.0).passed
    assert verdict_on([1.0], [2.0], rtol=0.6, atol=0.0).passed


@pytest.mark.parametrize(
    ("answer", "signed", "reason"),
    [
        (NAN, 1.0, "non_finite"),
        (INF, 1.0, "non_finite"),
        (-INF, 1.0, "non_finite"),
        (NAN, NAN, None),
        (INF, INF, None),
        (-INF, INF, "proof"),
        (NAN, INF, "proof"),
        (1.0, NAN, "proof"),
        (1.0, INF, "proof"),
    ],
)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_numbers_that_are_none_pass_only_where_the_same_were_signed(
    answer: float, signed: float, reason: str | None, dtype: str
) -> None:
    assert verdict_on([0.5, answer], [0.5, signed], dtype=dtype, rtol=1.0, atol=1e6).reason == reason


@pytest.mark.parametrize("dtype", ["bool", "u1", "i4", "i8", "u8"])
def test_whole_numbers_have_to_be_equal_whatever_the_tolerance(dtype: str) -> None:
    assert verdict_on([1, 0], [1, 0], dtype=dtype, atol=1e6).passed
    verdict = verdict_on([1, 1], [1, 0], dtype=dtype, atol=1e6)
    assert (verdict.passed, verdict.reason) == (False, "proof")


def test_large_whole_numbers_are_not_compared_as_floats() -> None:
    assert not verdict_on([2**62 + 1], [2**62], dtype="i8", atol=1e6).passed


@pytest.mark.parametrize(
    "answer", [np.zeros((1, 2), "f8"), np.zeros((2,), "f4"), np.zeros((2, 2), "f4"), np.zeros((1, 2), "i4")]
)
def test_another_dtype_or_shape_is_no_proof_even_if_the_numbers_agree(answer: np.ndarray) -> None:
    golden = judge.Golden(1, [np.zeros((1, 1, 4), "f4")], [np.zeros((1, 1, 2), "f4")])
    verdict = judge.prove(lambda arrays: [answer], golden, 1.0, 1e6)
    assert (verdict.passed, verdict.reason) == (False, "proof")
    assert str(answer.dtype) in verdict.detail


def test_every_vector_and_every_output_is_looked_at() -> None:
    inputs = [np.arange(6, dtype="f4").reshape(3, 2)]
    golden = judge.Golden(3, inputs, [inputs[0] * 2, inputs[0] + 1])
    assert judge.prove(lambda a: [a[0] * 2, a[0] + 1], golden, 0.0, 0.0) == (True, 3, 0.0, 0.0, None, "")
    for position in (0, 1):
        for vector in range(3):

            def run(arrays: list[np.ndarray], at: int = vector, output: int = position) -> list[np.ndarray]:
                results = [arrays[0] * 2, arrays[0] + 1]
                if arrays[0][0] == inputs[0][at][0]:
                    results[output] = results[output] + np.float32(1)
                return results

            verdict = judge.prove(run, golden, 1e-3, 1e-3)
            assert (verdict.passed, verdict.max_abs_error) == (False, 1.0)
            assert f"golden vector {vector}: output {position} is off by 1" in verdict.detail


def npy(value: np.ndarray) -> bytes:
    """As a file."""
    target = io.BytesIO()
    np.save(target, value, allow_pickle=value.dtype == object)
    return target.getvalue()


def read(content: bytes, count: int = 3, spec: TensorSpec = SPEC) -> judge.Golden:
    """Read one file as the golden input and output."""
    with descriptor(content) as fd:
        golden = {"count": count, "inputs": {"x": "f"}, "outputs": {"x": "f"}}
        return judge.read_golden({"f": fd}, golden, [spec], [spec])


@contextmanager
def descriptor(content: bytes) -> Iterator[int]:
    """The bytes in sealed memory."""
    fd = sealed(content)
    try:
        yield fd
    finally:
        os.close(fd)


GOOD = np.arange(24, dtype="f4").reshape(3, 2, 4)


def test_a_golden_file_comes_back() -> None:
    golden = read(npy(GOOD))
    assert golden.vectors == 3
    np.testing.assert_array_equal(golden.inputs[0], GOOD)
    np.testing.assert_array_equal(golden.outputs[0], GOOD)


@pytest.mark.parametrize(
    "value",
    [
        GOOD.astype("f8"),
        GOOD.astype("i4"),
        GOOD[:2],
        GOOD[0],
        GOOD.reshape(3, 4, 2),
        np.zeros((3, 0, 4), "f4"),
        np.float32(1),
        np.array([{}, {}, {}]),
        np.zeros(3, [("a", "f4")]),
    ],
)
def test_golden_files_that_do_not_fit_the_manifest(value: np.ndarray) -> None:
    with pytest.raises(judge.GoldenMalformed):
        read(npy(np.asarray(value)))


@pytest.mark.parametrize("count", [0, -1, "3", 2.0, None])
def test_a_count_of_vectors_that_is_none(count: object) -> None:
    with pytest.raises(judge.GoldenMalformed):
        read(npy(GOOD), count)  # type: ignore[arg-type]


def test_a_file_that_is_not_there() -> None:
    for golden in ({"count": 1}, {"count": 1, "inputs": {}, "outputs": {}}, {"count": 1, "inputs": [], "outputs": []}):
        with pytest.raises(judge.GoldenMalformed):
            judge.read_golden({}, golden, [SPEC], [SPEC])


def test_a_file_that_announces_more_numbers_than_any_memory_has() -> None:
    head = npy(GOOD).replace(b"(3, 2, 4), }", b"(3, 9999999999999, 4), }")
    for content in (head, b"PK\x03\x04" + bytes(100), b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\x80\x04."):
        with pytest.raises(judge.GoldenMalformed):
            read(content)


@given(st.data())
def test_a_golden_file_with_changed_bytes_is_read_or_malformed(data: st.DataObject) -> None:
    content = bytearray(npy(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))  # the header has 128 bytes
    try:
        golden = read(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except judge.GoldenMalformed:
        return
    assert golden.inputs[0].shape[0] == 3 and golden.inputs[0].dtype == np.float32
