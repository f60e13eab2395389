"""Faults of a loaded model, made by the numpy engine on purpose. What every engine does is in `test_contract`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.contract.errors import Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.runtime.loading import LoadFailed
from edge_agent.worker import wire
from tests.tiny_model import write_tiny_model
from tests.worker.stand import MEMORY_BYTES, Stand
from tests.worker.subjects import NUMPY, NUMPY_OLD

pytestmark = pytest.mark.parametrize("subject", [NUMPY, NUMPY_OLD], indirect=True, ids=lambda subject: subject.name)

POISON = np.array([[-7.0, 1.0, 2.0, 3.0]], "<f4")
HEALTHY = np.array([[0.5, 1.0, -2.0, 3.0]], "<f4")


def model_with(folder: Path, when: str, kind: str, amount: float = 0.0) -> Path:
    """A model with a fault."""
    fault: dict[str, Any] = {"op": "fault", "when": when, "kind": kind, "amount": amount}
    first = (fault,) if when == "poison" else ()
    return write_tiny_model(folder, first_layers=first, layers=() if first else (fault,))


def poisoned(folder: Path, kind: str) -> Path:
    """A healthy model, but for requests that begin with -7."""
    return model_with(folder, "poison", kind, -7.0)


@pytest.mark.parametrize("when", ["load", "run"])
@pytest.mark.parametrize(
    ("kind", "exit_code", "signal_number"),
    [("abort", None, signal.SIGABRT), ("segfault", None, signal.SIGSEGV), ("exit", 3, None)],
)
def test_how_a_load_ended_its_process_is_told(
    stand: Stand, tmp_path: Path, when: str, kind: str, exit_code: int | None, signal_number: int | None
) -> None:
    worker = stand.worker()
    with pytest.raises(Unavailable):
        worker.load(model_with(tmp_path, when, kind))
    assert worker.channel.closed
    assert stand.exit_of(worker) == (exit_code, signal_number)


@pytest.mark.parametrize("when", ["load", "run"])
def test_a_load_that_hangs_is_given_up_by_the_caller(stand: Stand, tmp_path: Path, when: str) -> None:
    worker = stand.worker()
    with pytest.raises(LoadFailed) as failed:
        worker.load(model_with(tmp_path, when, "hang"), timeout_s=0.2)
    assert failed.value.reason is Reason.LOAD_TIMEOUT
    assert not worker.process.exited.is_set(), "the caller ends it, with the reason known"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("nan", Reason.NON_FINITE), ("garbage", Reason.PROOF), ("raise", Reason.LOAD_FAILED)],
)
def test_a_model_that_is_wrong_at_every_run_is_not_proven(
    stand: Stand, tmp_path: Path, kind: str, reason: Reason
) -> None:
    with pytest.raises(LoadFailed) as failed:
        stand.worker().load(model_with(tmp_path, "run", kind))
    assert failed.value.reason is reason


@pytest.mark.parametrize(
    ("kind", "exit_code", "signal_number"),
    [("abort", None, signal.SIGABRT), ("segfault", None, signal.SIGSEGV), ("exit", 3, None)],
)
def test_a_request_that_ends_the_process_is_noticed_at_once(
    stand: Stand, tmp_path: Path, kind: str, exit_code: int | None, signal_number: int | None
) -> None:
    worker = stand.loaded(poisoned(tmp_path, kind))
    line = worker.data_line()
    with pytest.raises(ConnectionResetError):
        line.infer(POISON)
    assert stand.exit_of(worker) == (exit_code, signal_number)


def test_a_request_that_hangs_is_given_up_by_the_caller(stand: Stand, tmp_path: Path) -> None:
    worker = stand.loaded(poisoned(tmp_path, "hang"))
    line = worker.data_line()
    line.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        line.infer(POISON)
    assert not worker.process.exited.is_set()


def test_a_slow_answer_is_still_right(stand: Stand, tmp_path: Path) -> None:
    quick = stand.loaded(write_tiny_model(tmp_path / "quick"))
    slow = stand.loaded(model_with(tmp_path / "slow", "run", "slow", 50))
    assert slow.infer(HEALTHY).tobytes() == quick.infer(HEALTHY).tobytes()


def test_numbers_that_are_none_are_answered_and_counted(stand: Stand, tmp_path: Path) -> None:
    """The proof had only healthy numbers: what one request brings is told to whoever asks for the statistics."""
    worker = stand.loaded(poisoned(tmp_path, "nan"))
    assert np.isnan(worker.infer(POISON)).all()
    assert np.isfinite(worker.infer(HEALTHY)).all()
    stats = worker.ask("stats")
    assert (stats["requests"], stats["non_finite"]) == (2, 1)


def test_an_error_of_the_engine_is_an_answer(stand: Stand, tmp_path: Path) -> None:
    worker = stand.loaded(poisoned(tmp_path, "raise"))
    reply = worker.data_line().infer(POISON)
    assert reply.code == wire.ENGINE_ERROR
    assert "on purpose" in reply.text
    assert np.isfinite(worker.infer(HEALTHY)).all()


def test_a_model_that_grows_at_every_request_comes_to_its_bound_and_no_further(stand: Stand, tmp_path: Path) -> None:
    """The amount is also what marks the request: 128 MiB each, of 512 MiB of address space (what the kernel bounds)."""
    grown = 128 << 20
    worker = stand.loaded(model_with(tmp_path, "poison", "grow", grown))
    before_bytes = worker.status("VmSize") * 1024
    line = worker.data_line()
    value = np.array([[grown, 0, 0, 0]], "<f4")
    codes = [line.infer(value).code]
    assert codes[0] == wire.OK
    try:
        for _ in range(5):
            assert worker.status("VmHWM") * 1024 <= before_bytes + MEMORY_BYTES
            codes.append(line.infer(value).code)
        assert codes[-1] == wire.ENGINE_ERROR
        assert np.isfinite(worker.infer(HEALTHY)).all(), "other requests are still answered"
    except (ConnectionResetError, BrokenPipeError):
        assert codes.count(wire.OK) < 5
        assert stand.exit_of(worker) == (70, None), "a small allocation met the bound first: the process ended itself"
