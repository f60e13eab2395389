"""The contract of every engine, in a real worker behind the real fork server. Faults of one engine are not here."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from edge_agent.contract.errors import Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.runtime.channel import PeerRefused
from edge_agent.runtime.loading import LoadFailed
from edge_agent.worker import wire
from tests.worker.stand import MEMORY_BYTES, Stand, Worker, status_number
from tests.worker.subjects import FILE_TROUBLES, PADDLE_PIR, SUBJECTS, Subject, golden_file


@pytest.fixture
def good(subject: Subject, tmp_path: Path) -> Path:
    return subject.good(tmp_path / "good")


def golden_pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs and signed outputs of the golden vectors."""
    inputs, outputs = (np.load(golden_file(folder, side)) for side in ("inputs", "outputs"))
    return list(zip(inputs, outputs, strict=True))


def assert_right(worker: Worker, folder: Path) -> None:
    """The worker gives the signed outputs."""
    for value, expected in golden_pairs(folder):
        np.testing.assert_allclose(worker.infer(value), expected, rtol=1e-4, atol=1e-5)


def assert_useless_but_alive(worker: Worker, value: np.ndarray) -> None:
    """After a refused load nothing is computed, and the worker still answers."""
    assert worker.data_line().infer(value).code == wire.NOT_LOADED
    with pytest.raises(PeerRefused) as refused:
        worker.ask("golden")
    assert refused.value.word == "not_loaded"


def test_a_model_is_loaded_from_sealed_memory_and_proven(subject: Subject, stand: Stand, good: Path) -> None:
    worker = stand.worker()
    assert worker.hello["state"] == "empty"
    answer = worker.load(good)
    assert answer["proof"]["passed"] and answer["proof"]["vectors"] == len(golden_pairs(good))
    assert (answer["engine"], answer["device"]) == (subject.engine, "cpu")
    assert answer["engine_version"] == stand.zygote().engine_version != ""
    assert answer["resident_bytes"] == pytest.approx(worker.status("VmRSS") * 1024, rel=0.1)
    left_open = [str(link.readlink()) for link in Path(f"/proc/{worker.process.pid}/fd").iterdir()]
    assert not [target for target in left_open if "memfd:test" in target], "the engine keeps no file of the model"


def test_a_worker_says_what_it_holds(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    hello = worker.data_line().hello
    assert (hello["state"], hello["worker_id"], hello["pid"]) == ("ready", worker.worker_id, worker.process.pid)
    assert hello["digest"] == worker.digest
    stats = worker.ask("stats")
    assert (stats["requests"], stats["non_finite"]) == (0, 0)
    assert worker.ask("golden")["proof"]["passed"]


def test_answers_are_those_that_were_signed(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    assert_right(worker, good)
    assert worker.ask("stats")["requests"] == len(golden_pairs(good))


def test_the_same_input_gives_the_same_bits_again_and_in_another_worker(stand: Stand, good: Path) -> None:
    one, two = stand.loaded(good), stand.loaded(good)
    for value, _ in golden_pairs(good):
        first = one.infer(value).tobytes()
        assert one.infer(value).tobytes() == first
        assert two.infer(value).tobytes() == first


def test_rows_of_a_batch_get_the_answers_that_they_get_alone(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    values = [value for value, _ in golden_pairs(good)]
    together = worker.infer(np.concatenate(values))
    alone = np.concatenate([worker.infer(value) for value in values])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_inputs_may_lie_anywhere_in_any_slot(stand: Stand, good: Path) -> None:
    line = stand.loaded(good).data_line()
    value, expected = golden_pairs(good)[0]
    for slot, offset in ((0, 0), (1, 64), (1, 3), (0, 1000)):
        reply = line.infer(value, slot=slot, offset=offset)
        assert reply.code == wire.OK
        np.testing.assert_allclose(line.outputs(reply, slot)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("wrong golden", Reason.PROOF),
        ("garbage", Reason.PROOF),
        ("nan", Reason.NON_FINITE),
        ("grows", Reason.LOAD_MEMORY),
    ],
)
def test_a_bad_model_is_refused_with_its_reason(
    subject: Subject, stand: Stand, tmp_path: Path, trouble: str, reason: Reason
) -> None:
    folder = subject.with_trouble(trouble, tmp_path / "bad")
    worker = stand.worker()
    before_bytes = worker.status("VmSize") * 1024
    with pytest.raises(LoadFailed) as failed:
        worker.load(folder)
    assert failed.value.reason is reason, failed.value.message
    assert worker.status("VmHWM") * 1024 <= before_bytes + MEMORY_BYTES
    assert_useless_but_alive(worker, golden_pairs(folder)[0][0])


@pytest.mark.parametrize("trouble", FILE_TROUBLES)
def test_a_damaged_file_never_hangs_and_never_answers_wrongly(
    subject: Subject, stand: Stand, tmp_path: Path, trouble: str
) -> None:
    """Refused, or the process ends; should an engine take it all the same, then with the signed outputs."""
    folder = FILE_TROUBLES[trouble](subject, tmp_path / "bad")
    worker = stand.worker()
    try:
        worker.load(folder)
    except LoadFailed as failed:
        assert failed.reason in (Reason.LOAD_FAILED, Reason.PROOF, Reason.NON_FINITE, Reason.LOAD_MEMORY)
        assert failed.message
    except Unavailable:
        exit_code, signal_number = stand.exit_of(worker)
        assert exit_code or signal_number in (signal.SIGSEGV, signal.SIGABRT)
    else:
        assert trouble == "parameters are too long"
        assert_right(worker, folder)


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s != PADDLE_PIR], indirect=True, ids=lambda s: s.name)
def test_a_load_that_crashes_ends_its_own_process_and_the_signal_is_told(
    subject: Subject, stand: Stand, tmp_path: Path, good: Path
) -> None:
    """Of PIR programs no damage is known that crashes paddle: 120 of 120 bit flips did not."""
    worker = stand.worker()
    bystander = stand.loaded(good)
    with pytest.raises(Unavailable):
        worker.load(subject.with_trouble("crash", tmp_path / "bad"))
    assert stand.exit_of(worker) == (None, signal.SIGSEGV)
    if subject.engine == "paddle":
        assert list(scratch_of(worker).iterdir()), "its temporary files are where the runtime removes them"
    assert_right(bystander, good)
    assert_right(stand.loaded(good), good)


def test_a_worker_that_ends_by_itself_leaves_no_temporary_folder(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    assert scratch_of(worker).is_dir()
    worker.ask("exit")
    assert stand.exit_of(worker) == (0, None)
    assert not scratch_of(worker).exists()


def scratch_of(worker: Worker) -> Path:
    return Path(f"{worker.socket}{wire.SCRATCH_SUFFIX}")


def test_a_load_that_hangs_is_given_up_by_the_caller(stand: Stand, good: Path) -> None:
    worker = stand.worker()
    worker.kill(signal.SIGSTOP)
    with pytest.raises(LoadFailed) as failed:
        worker.load(good, timeout_s=0.2)
    assert failed.value.reason is Reason.LOAD_TIMEOUT
    worker.kill()
    assert stand.exit_of(worker) == (None, signal.SIGKILL)


def test_a_request_that_hangs_is_given_up_by_the_caller(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    line = worker.data_line()
    line.sock.settimeout(0.2)
    worker.kill(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        line.infer(golden_pairs(good)[0][0])
    worker.kill()
    assert stand.exit_of(worker) == (None, signal.SIGKILL)
    with pytest.raises(ConnectionResetError):
        line.answer()


def test_what_does_not_fit_is_refused_before_the_engine_sees_it(stand: Stand, good: Path) -> None:
    """A wrong array would break a legacy predictor for good: after each refusal the answer is still right."""
    worker = stand.loaded(good)
    line = worker.data_line()
    value, expected = golden_pairs(good)[0]
    right = line.put(value)
    wrong = {
        "dtype": line.put(value.astype("u1")),
        "dtype of the same size": right._replace(dtype="INT32"),
        "double": line.put(value.astype("f8")),
        "rank": line.put(value.reshape(-1)),
        "shape": line.put(np.repeat(value, 2, axis=-1)),
        "no rows": right._replace(dims=(0, *value.shape[1:]), nbytes=0),
        "negative": right._replace(dims=(-1, *value.shape[1:])),
        "position": right._replace(position=1),
        "fewer bytes": right._replace(nbytes=right.nbytes - 4),
        "more rows than bytes": right._replace(dims=(2, *value.shape[1:])),
        "beyond the slot": right._replace(offset=1 << 16),
        "far beyond": right._replace(offset=(1 << 64) - 1),
    }
    requests = {name: (tensor,) for name, tensor in wrong.items()} | {"none": (), "two": (right, right)}
    for name, tensors in requests.items():
        reply = line.ask(wire.DataRequest(7, 0, tensors))
        assert (reply.request_id, reply.code, reply.outputs) == (7, wire.BAD_REQUEST, ()), (name, reply)
        assert reply.text
        good_reply = line.infer(value)
        np.testing.assert_allclose(line.outputs(good_reply)[0], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_outputs_that_do_not_fit_the_slot_are_refused(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    line = worker.data_line()
    value, _ = golden_pairs(good)[0]
    reply = line.infer(value, offset=(1 << 16) - value.nbytes)
    assert reply.code == wire.OUTPUT_TOO_LARGE
    assert_right(worker, good)


def test_a_second_model_is_refused_and_the_first_one_stays(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    with pytest.raises(LoadFailed):
        worker.load(good)
    assert_right(worker, good)


def test_a_killed_worker_is_told_with_its_signal(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    line = worker.data_line()
    worker.kill()
    assert stand.exit_of(worker) == (None, signal.SIGKILL)
    with pytest.raises(OSError):
        line.infer(golden_pairs(good)[0][0])


def test_a_worker_that_is_asked_to_end_ends_well(stand: Stand, good: Path) -> None:
    worker = stand.loaded(good)
    worker.ask("exit")
    assert stand.exit_of(worker) == (0, None)
    assert not worker.socket.exists()


def test_exactly_one_thread_runs_where_workers_are_forked(stand: Stand, good: Path) -> None:
    stand.loaded(good)
    assert status_number(stand.zygote().process.pid, "Threads") == 1
    assert stand.worker().status("Threads") == 1
