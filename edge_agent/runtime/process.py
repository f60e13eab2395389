"""Child processes by pid and pidfd: started, adopted, watched, ended and reaped the same way.

What they do is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

ENDING_S = 2.0  # time to end by itself before SIGKILL


class ProcessHandle:
    """A process that may outlive its starter: known by pid, watched by pidfd (no pid reuse can confuse it)."""

    def __init__(self, pid: int, on_exit: Callable[[], None]) -> None:
        """Raises ProcessLookupError when there is no such process (any more)."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._on_exit = on_exit
        self.exited = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._note_exit)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.exited.is_set():
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def end(self, grace_s: float = ENDING_S) -> None:
        """Wait for the end; SIGKILL after grace_s."""
        try:
            async with asyncio.timeout(grace_s):
                await self.exited.wait()
        except TimeoutError:
            self.kill()
            await self.exited.wait()

    def _note_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        with contextlib.suppress(ChildProcessError):  # adopted: somebody else's child
            os.waitpid(self.pid, os.WNOHANG)
        self.exited.set()
        self._on_exit()


def start(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    folder: Path,
    on_exit: Callable[[], None],
) -> ProcessHandle:
    """Launch a child and watch it. Raises OSError when it cannot be started."""
    return ProcessHandle(launch(command, pass_fds=pass_fds, environment=environment, folder=folder), on_exit)


def launch(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    folder: Path,
) -> int:
    """Start a child in a session of its own, so that a signal to our terminal or group does not end it; its pid.

    stdout and stderr are ours (structured logs go to stderr). Raises OSError when it cannot be started.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=tuple(pass_fds),
        env=dict(os.environ) | dict(environment or {}),
        cwd=folder,
        start_new_session=True,
    )
    child.returncode = 0  # reaped through the pidfd, not by Popen
    return child.pid


def become_subreaper() -> None:
    """Workers whose fork server died become our children, so that they are reaped."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
