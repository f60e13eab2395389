"""The fork server: what it refuses, what it tells, who stays when somebody dies. What workers compute is elsewhere."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract.errors import Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.runtime.channel import Channel, PeerRefused, connect, connect_when_up
from edge_agent.runtime.process import ProcessHandle
from edge_agent.runtime.zygotes import Zygote
from tests.harness.agent import ROOT, wait_until
from tests.tiny_model import write_tiny_model
from tests.worker.stand import WAIT_S, Stand
from tests.worker.subjects import NUMPY
from tests.worker.test_faults import HEALTHY


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "good")


def ask(stand: Stand, zygote: Zygote, op: str, **fields: Any) -> dict[str, Any]:
    return stand.run(zygote.channel.request(op, timeout_s=WAIT_S, **fields))[0]


def spawn(stand: Stand, channel: Channel) -> ProcessHandle:
    """A worker "w" of a fork server that no stand knows."""
    fields = {**SPAWN, "socket": str(stand.run_dir / "w.sock"), "orphan_timeout_s": 0.3}
    answer, _ = stand.run(channel.request("spawn", timeout_s=WAIT_S, **fields))
    return stand.own(answer["pid"])


SPAWN = {"worker_id": "w", "socket": "w.sock", "orphan_timeout_s": 5.0, "address_space_bytes": 1 << 30}


@pytest.mark.parametrize(
    "change",
    [
        {"worker_id": None},
        {"worker_id": ["w"]},
        {"worker_id": ""},
        {"socket": None},
        {"socket": 7},
        {"orphan_timeout_s": "soon"},
        {"orphan_timeout_s": None},
        {"orphan_timeout_s": 0},
        {"address_space_bytes": "1 GB"},
        {"address_space_bytes": -1},
        {"address_space_bytes": 1 << 80},
    ],
    ids=str,
)
def test_nonsense_is_refused_and_the_fork_server_goes_on(
    numpy_stand: Stand, good: Path, change: dict[str, Any]
) -> None:
    zygote = numpy_stand.zygote()
    with pytest.raises(PeerRefused) as refused:
        ask(numpy_stand, zygote, "spawn", **{**SPAWN, **change})
    assert refused.value.word == "malformed"
    numpy_stand.loaded(good)
    assert numpy_stand.zygote() is zygote


def test_an_unknown_op_is_refused(numpy_stand: Stand) -> None:
    with pytest.raises(PeerRefused) as refused:
        ask(numpy_stand, numpy_stand.zygote(), "load")
    assert refused.value.word == "unknown_op"


def test_a_worker_that_cannot_listen_is_told_with_its_exit_code(numpy_stand: Stand) -> None:
    zygote = numpy_stand.zygote()
    ask(numpy_stand, zygote, "spawn", **{**SPAWN, "worker_id": "far", "socket": "/nowhere/" + "w" * 200})
    assert numpy_stand.run(numpy_stand.told("far")) == (70, None)


def test_a_fork_server_with_a_second_thread_does_not_fork(numpy_stand: Stand) -> None:
    script = (
        "import sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "from edge_agent.worker.zygote import ZygoteServer\n"
        "ZygoteServer(sys.argv[2], 20.0, 'numpy').run()\n"
    )
    path = numpy_stand.run_dir / "threads.sock"
    child = subprocess.Popen([sys.executable, "-c", script, str(ROOT), str(path)])

    async def refused() -> str:
        process = ProcessHandle(child.pid, lambda: None)
        channel = await connect_when_up(path, process, lambda _h: None, lambda _c: None, timeout_s=WAIT_S)
        try:
            await channel.request("hello", timeout_s=WAIT_S, role="control", generation=1)
            with pytest.raises(PeerRefused) as refusal:
                await channel.request("spawn", timeout_s=WAIT_S, **SPAWN)
            return refusal.value.word
        finally:
            channel.close()
            process.kill()
            await process.exited.wait()

    try:
        assert numpy_stand.run(refused()) == "threads"
    finally:
        child.kill()
        child.wait()


def test_one_thread_runs_whatever_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch, good: Path) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "4")
    with Stand("numpy", NUMPY.python) as stand:
        stand.loaded(good)


def test_a_worker_has_no_connection_of_its_fork_server(numpy_stand: Stand, good: Path) -> None:
    """Else a runtime that ends would never look gone to the fork server, nor a fork server to its runtime."""

    def sockets(pid: int) -> set[str]:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        return {link for link in links if link.startswith(("socket:", "pipe:"))}

    bystander = numpy_stand.loaded(good)
    worker = numpy_stand.loaded(good)
    stdio = {str(Path(f"/proc/{worker.process.pid}/fd/{fd}").readlink()) for fd in range(3)}
    others = sockets(numpy_stand.zygote().process.pid) | sockets(bystander.process.pid)
    assert not sockets(worker.process.pid) & (others - stdio)


@pytest.mark.parametrize(
    ("engine", "python", "said"),
    [
        ("paddle", sys.executable, "paddle cannot be imported"),
        ("numpy", "/nowhere/python3", "cannot start /nowhere/python3"),
        ("numpy", "/bin/false", "did not start"),
        ("tensorflow", sys.executable, "there are numpy and paddle"),
    ],
)
def test_an_engine_that_is_not_there_is_named(engine: str, python: str, said: str) -> None:
    with Stand(engine, python) as stand:
        with pytest.raises(Unavailable, match=said) as missing:
            stand.zygote()
        assert missing.value.reason is Reason.ENGINE_MISSING
        assert not list(stand.run_dir.glob("*.sock"))


def test_workers_go_on_when_their_fork_server_dies_and_another_one_is_started(numpy_stand: Stand, good: Path) -> None:
    worker, first = numpy_stand.loaded(good), numpy_stand.zygote()
    before = worker.infer(HEALTHY).tobytes()
    first.process.kill()
    numpy_stand.wait_gone(first.process)
    wait_until(lambda: numpy_stand.zygote() is not first, "another fork server")
    assert worker.infer(HEALTHY).tobytes() == before
    assert numpy_stand.loaded(good).infer(HEALTHY).tobytes() == before


def test_the_next_runtime_is_told_how_workers_ended_meanwhile(good: Path) -> None:
    with Stand("numpy", NUMPY.python) as stand:
        process, channel = stand.zygote_of_earlier_runtime()
        worker = spawn(stand, channel)
        stand.hang_up(channel)
        worker.kill(signal.SIGTERM)
        stand.wait_gone(worker)
        stand.adopt_zygote(process, generation=2)
        assert stand.run(stand.told("w")) == (None, signal.SIGTERM)
        assert stand.loaded(good).infer(HEALTHY).shape == (1, 2), "it works for the next one"
        assert stand.zygote().process is process


def test_a_runtime_of_an_earlier_generation_is_turned_away(numpy_stand: Stand) -> None:
    numpy_stand.zygote()

    async def come_late() -> None:
        path = numpy_stand.run_dir / "zygote-numpy.sock"
        channel = await connect(path, lambda _h: None, lambda: None, timeout_s=WAIT_S)
        try:
            await channel.request("hello", timeout_s=WAIT_S, role="control", generation=0)
        finally:
            channel.close()

    with pytest.raises(PeerRefused) as refused:
        numpy_stand.run(come_late())
    assert refused.value.word == "old_generation"
    numpy_stand.worker()


def test_a_fork_server_that_no_longer_fits_the_settings_is_not_taken_back() -> None:
    with Stand("numpy", NUMPY.python) as stand:
        zygote = stand.zygote()
        with Stand("numpy", "/usr/bin/env") as other:
            assert not other.run(
                other.zygotes.adopt(zygote.channel, zygote.process, {"engine": "numpy", "python": NUMPY.python})
            )
            assert not other.run(other.zygotes.adopt(zygote.channel, zygote.process, {"engine": "paddle"}))


def test_orphans_end_themselves_after_their_time() -> None:
    with Stand("numpy", NUMPY.python, orphan_s=0.3) as stand:
        process, channel = stand.zygote_of_earlier_runtime()
        worker = spawn(stand, channel)
        stand.hang_up(channel)
        stand.wait_gone(worker)
        stand.wait_gone(process)
        assert not list(stand.run_dir.glob("*.sock")), "nothing is left behind"


def test_a_worker_that_no_runtime_ever_asks_for_ends_itself() -> None:
    with Stand("numpy", NUMPY.python, orphan_s=0.3) as stand:
        stand.zygote()
        lonely = stand.own(stand.run(stand.zygotes.spawn("numpy", "lonely", stand.run_dir / "lonely.sock")))
        assert stand.run(stand.told("lonely")) == (0, None)
        assert not Path(f"/proc/{lonely.pid}").exists()


def test_a_worker_that_was_killed_can_be_made_again_under_its_name(numpy_stand: Stand) -> None:
    """As the runtime does with a load that was killed from outside; what the first one left is no obstacle."""
    channel = numpy_stand.zygote().channel
    socket = numpy_stand.run_dir / "w.sock"
    for _ in range(2):
        process = spawn(numpy_stand, channel)
        numpy_stand.run(connect_when_up(socket, process, lambda header: None, lambda closed: None, timeout_s=WAIT_S))
        process.kill()
        numpy_stand.wait_gone(process)
