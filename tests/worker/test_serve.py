"""Connections to a worker: who may say what, nonsense on every line, a runtime that goes. Engines are not looked at."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.runtime.channel import Channel, PeerRefused
from edge_agent.worker import wire
from tests.harness.agent import wait_until
from tests.tiny_model import write_tiny_model
from tests.worker.stand import SLOT_BYTES, SLOTS, WAIT_S, Stand, Worker, planned, sealed
from tests.worker.test_faults import HEALTHY


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "good")


def raw_line(worker: Worker) -> socket.socket:
    """A connection on which nothing was said yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(WAIT_S)
    sock.connect(str(worker.socket))
    return sock


def answer_to(sock: socket.socket, **header: Any) -> dict[str, Any]:
    """Say something as nobody in particular."""
    wire.send_frame(sock, header)
    found, _ = next(wire.FrameDecoder().feed(sock.recv(1 << 16)))
    return found


def is_cut_off(sock: socket.socket) -> bool:
    """Whether the worker hung up."""
    try:
        return sock.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


async def is_closed(channel: Channel) -> bool:
    """Whether the worker hung up, once our side has had its turn."""
    return channel.closed


def test_only_the_runtime_may_command(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.loaded(good)
    with raw_line(worker) as stranger:
        for op in ("load", "golden", "stats", "exit", "nonsense"):
            assert answer_to(stranger, op=op, id=1)["reason"] == "not_controller"
    with pytest.raises(PeerRefused) as refused:
        worker.ask("nonsense")
    assert refused.value.word == "unknown_op"
    assert worker.infer(HEALTHY).shape == (1, 2)


def test_the_runtime_of_the_highest_generation_commands(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.loaded(good)
    first = worker.channel
    assert worker.reconnect(generation=5)["state"] == "ready"
    second = worker.channel
    wait_until(lambda: numpy_stand.run(is_closed(first)), "the first runtime is cut off")
    with pytest.raises(PeerRefused) as refused:
        worker.reconnect(generation=4)
    assert refused.value.word == "old_generation"
    numpy_stand.hang_up(worker.channel)
    worker.channel = second
    assert worker.ask("golden")["proof"]["passed"], "the second one still commands"


def test_a_worker_goes_on_serving_without_a_runtime_and_is_taken_back(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.loaded(good)
    before = worker.infer(HEALTHY).tobytes()
    numpy_stand.hang_up(worker.channel)
    assert worker.infer(HEALTHY).tobytes() == before
    hello = worker.reconnect(generation=2)
    assert (hello["state"], hello["digest"], hello["worker_id"]) == ("ready", worker.digest, worker.worker_id)
    assert worker.ask("stats")["requests"] == 2


def test_noise_cuts_off_who_sends_it_and_nobody_else(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.loaded(good)
    before = worker.infer(HEALTHY).tobytes()
    line = worker.data_line()
    chance = np.random.default_rng(3)
    for length in range(8, 68):
        with raw_line(worker) as noisy:
            noisy.sendall(b"\xff" + chance.bytes(length))
            assert is_cut_off(noisy)
        with worker.data_line().sock as noisy:
            noisy.sendall(b"\xff" + chance.bytes(length))
            assert is_cut_off(noisy)
        assert line.outputs(line.infer(HEALTHY))[0].tobytes() == before
    assert worker.ask("golden")["proof"]["passed"]


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"op": "hello"},
        {"op": "stats", "id": None},
        {"op": "stats", "id": "1"},
        {"op": ["stats"], "id": 1},
        {"op": None, "id": 1},
    ],
    ids=str,
)
def test_a_request_without_a_name_or_a_number_is_none(numpy_stand: Stand, good: Path, header: dict[str, Any]) -> None:
    worker = numpy_stand.loaded(good)
    with raw_line(worker) as sock:
        wire.send_frame(sock, header)
        assert is_cut_off(sock)
    assert worker.infer(HEALTHY).shape == (1, 2)


@pytest.mark.parametrize("generation", [None, "1", 1.5, [1]])
def test_a_runtime_without_a_generation_is_turned_away(numpy_stand: Stand, generation: object) -> None:
    worker = numpy_stand.worker()
    with raw_line(worker) as sock:
        answer = answer_to(sock, op="hello", id=1, role="control", generation=generation)
    assert answer["reason"] == "old_generation"
    assert worker.ask("stats")["requests"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": []},
        {"files": ["model.json"] * 4},
        {"files": [{"name": f"f{n}", "role": "golden"} for n in range(4)]},
        {"format": None},
        {"inputs": None},
        {"inputs": [{"name": "x", "dtype": "FP31", "shape": [-1, 4]}]},
        {"inputs": [{"name": "x", "dtype": "FP32", "shape": ["a"]}]},
        {"inputs": [{"name": "x", "dtype": "FP32", "shape": [1e400]}]},
        {"inputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 4]}]},
        {"inputs": [{"name": "x", "dtype": "FP64", "shape": [-1, 4]}]},
        {"outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 3]}]},
        {"golden": None},
        {"golden": {"count": 0}},
        {"golden": {"count": 3, "inputs": {"x": "golden/x.npy"}, "outputs": {"y": "model.bin"}}},
        {"golden": {"count": 3, "inputs": {"x": ["golden/x.npy"]}, "outputs": {"y": "golden/y.npy"}}},
        {"tolerance": None},
        {"tolerance": {"rtol": 0.0}},
        {"tolerance": {"rtol": float("inf"), "atol": 0.0}},
        {"tolerance": {"rtol": float("nan"), "atol": 0.0}},
        {"tolerance": {"rtol": -1.0, "atol": 0.0}},
        {"tolerance": {"rtol": 10**400, "atol": 0.0}},
        {"tolerance": [1, 2]},
    ],
    ids=str,
)
def test_a_load_request_that_makes_no_sense_is_refused_and_another_one_is_taken(
    numpy_stand: Stand, good: Path, change: dict[str, Any]
) -> None:
    worker = numpy_stand.worker()
    with planned(good) as plan:
        fields = {**plan.request_fields(), **change}
        with pytest.raises(PeerRefused) as refused:
            worker.ask("load", fds=tuple(plan.fds), **fields)
    assert refused.value.word in ("malformed", "load_failed"), refused.value.text
    assert refused.value.text
    worker.load(good)


def test_a_load_without_its_descriptors_is_refused(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.worker()
    with planned(good) as plan, pytest.raises(PeerRefused) as refused:
        worker.ask("load", fds=tuple(plan.fds[1:]), **plan.request_fields())
    assert refused.value.word == "malformed"
    worker.load(good)


def test_descriptors_of_a_refused_load_are_given_back(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.worker()
    folder = Path(f"/proc/{worker.process.pid}/fd")
    before = len(list(folder.iterdir()))
    for _ in range(5):
        with planned(good) as plan, pytest.raises(PeerRefused):
            worker.ask("load", fds=tuple(plan.fds), **{**plan.request_fields(), "format": "other"})
    wait_until(lambda: len(list(folder.iterdir())) == before, "they are given back")


@pytest.mark.parametrize(
    ("descriptors", "fields"),
    [
        (0, {"slots": SLOTS, "slot_bytes": SLOT_BYTES}),
        (2, {"slots": SLOTS, "slot_bytes": SLOT_BYTES}),
        (1, {}),
        (1, {"slots": 0, "slot_bytes": SLOT_BYTES}),
        (1, {"slots": -1, "slot_bytes": SLOT_BYTES}),
        (1, {"slots": 65, "slot_bytes": 1}),
        (1, {"slots": SLOTS + 1, "slot_bytes": SLOT_BYTES}),
        (1, {"slots": SLOTS, "slot_bytes": SLOT_BYTES + 1}),
        (1, {"slots": 1, "slot_bytes": 1 << 33}),
        (1, {"slots": "2", "slot_bytes": SLOT_BYTES}),
    ],
    ids=str,
)
def test_a_front_without_good_shared_memory_is_turned_away(
    numpy_stand: Stand, good: Path, descriptors: int, fields: dict[str, Any]
) -> None:
    worker = numpy_stand.loaded(good)
    arena = sealed(bytes(SLOTS * SLOT_BYTES + wire.BEGUN_BYTES))
    try:
        with raw_line(worker) as sock:
            wire.send_frame(sock, {"op": "hello", "id": 1, "role": "data", **fields}, fds=[arena] * descriptors)
            answer, _ = next(wire.FrameDecoder().feed(sock.recv(1 << 16)))
            assert (answer["ok"], answer["reason"]) == (False, "malformed")
    finally:
        os.close(arena)
    assert worker.infer(HEALTHY).shape == (1, 2)


def test_a_request_for_a_slot_that_is_not_there_ends_that_line_alone(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.loaded(good)
    other = worker.data_line()
    for slot in (SLOTS, SLOTS + 1, 2**32 - 1):
        line = worker.data_line()
        with pytest.raises(ConnectionResetError):
            line.ask(wire.DataRequest(1, slot, (line.put(HEALTHY),)))
    assert other.infer(HEALTHY).code == wire.OK


def test_requests_sent_ahead_are_answered_in_their_order(numpy_stand: Stand, good: Path) -> None:
    line = numpy_stand.loaded(good).data_line()
    tensors = [line.put(HEALTHY, slot=slot) for slot in range(SLOTS)]
    frames = [wire.encode_request(wire.DataRequest(n, n % SLOTS, (tensors[n % SLOTS],))) for n in range(50)]
    line.sock.sendall(b"".join(frames))
    assert [line.answer().request_id for _ in range(50)] == list(range(50))


def test_too_many_connections_are_turned_away_and_room_comes_back(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.loaded(good)
    crowd = [raw_line(worker) for _ in range(15)]
    try:
        with raw_line(worker) as late:
            assert is_cut_off(late)
        assert worker.ask("golden")["proof"]["passed"]
    finally:
        for sock in crowd:
            sock.close()
    assert worker.infer(HEALTHY).shape == (1, 2)


def test_descriptors_without_end_are_not_kept(numpy_stand: Stand) -> None:
    worker = numpy_stand.worker()
    fd = sealed(b"x")
    before = len(os.listdir(f"/proc/{worker.process.pid}/fd"))
    try:
        with raw_line(worker) as sock, pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(struct.pack("!II", 100_000, 0))  # a header that never ends
            for _ in range(1000):
                socket.send_fds(sock, [b" "], [fd] * 100)
    finally:
        os.close(fd)
    wait_until(lambda: len(os.listdir(f"/proc/{worker.process.pid}/fd")) <= before, "they are given back")
    assert worker.ask("stats")["requests"] == 0


def test_one_golden_vector_is_replayed_alone_and_timed(numpy_stand: Stand, good: Path) -> None:
    worker = numpy_stand.loaded(good)
    answer = worker.ask("golden", vector=2)
    assert answer["proof"]["passed"] and answer["proof"]["vectors"] == 1 and answer["elapsed_us"] >= 0
    assert worker.ask("golden")["proof"]["vectors"] == 3
    for nonsense in (-1, 3, "0", 1.0):
        with pytest.raises(PeerRefused) as refused:
            worker.ask("golden", vector=nonsense)
        assert refused.value.word == "malformed"
