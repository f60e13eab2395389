"""Child processes by pidfd: started, ended and noticed. What they do is not looked at."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.runtime.process import ProcessHandle, start
from tests.worker.stand import WAIT_S

STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


def test_a_child_lives_in_a_session_of_its_own_and_its_end_is_noticed(tmp_path: Path) -> None:
    async def scenario() -> None:
        ended: list[bool] = []
        child = start(["sleep", "600"], folder=tmp_path, on_exit=lambda: ended.append(True))
        try:
            assert os.getsid(child.pid) == child.pid
            assert Path(f"/proc/{child.pid}/cwd").resolve() == tmp_path.resolve()
            assert not child.exited.is_set()
        finally:
            child.kill(signal.SIGTERM)
            async with asyncio.timeout(WAIT_S):
                await child.exited.wait()
        assert ended == [True]
        assert not Path(f"/proc/{child.pid}").exists(), "it is reaped"
        child.kill()  # harmless: it is gone
        await child.end()

    asyncio.run(scenario())


def test_a_child_that_does_not_end_by_itself_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        child = start([sys.executable, "-c", STUBBORN], folder=tmp_path, on_exit=lambda: None)
        child.kill(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            await child.end(grace_s=0.05)
        assert child.exited.is_set()

    asyncio.run(scenario())


def test_a_stopped_child_is_killed_as_well(tmp_path: Path) -> None:
    async def scenario() -> None:
        child = start(["sleep", "600"], folder=tmp_path, on_exit=lambda: None)
        child.kill(signal.SIGSTOP)
        async with asyncio.timeout(WAIT_S):
            await child.end(grace_s=0.05)
        assert not Path(f"/proc/{child.pid}").exists()

    asyncio.run(scenario())


def test_somebody_elses_child_is_watched_in_the_same_way() -> None:
    """As after a restart of the runtime: nobody here may wait for its status."""
    quiet = "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
    script = f"import subprocess; print(subprocess.Popen(['sleep', '600'], {quiet}).pid)"
    pid = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)

    async def scenario() -> None:
        child = ProcessHandle(pid, lambda: None)
        async with asyncio.timeout(WAIT_S):
            await child.end(grace_s=0.0)

    asyncio.run(scenario())


def test_a_process_that_is_gone_is_named_so(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    async def scenario() -> None:
        with pytest.raises(ProcessLookupError):
            ProcessHandle(gone.pid, lambda: None)
        with pytest.raises(FileNotFoundError):
            start([str(tmp_path / "nothing")], folder=tmp_path, on_exit=lambda: None)

    asyncio.run(scenario())
