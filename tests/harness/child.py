"""A process with a folder and a log of its own, and how tests end it: by its process id. What it is and how it starts
is said by the class that is made from this one.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from types import TracebackType

from tests.harness.agent import Forked


class Child:
    """Not started yet; nothing runs after `with`. end_s: how long a graceful end may take."""

    end_s = 10.0

    def __init__(self, folder: Path, log_name: str) -> None:
        self.folder = folder
        self.log_file = folder / log_name
        self._process: subprocess.Popen[bytes] | Forked | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the one that runs (or ran last)."""
        assert self._process is not None and self._process.pid is not None, "it was never started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Of the one that ended last."""
        assert self._process is not None, "it was never started"
        return self._process.returncode

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it gracefully, at the latest by kill -9; no harm when it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.end_s)
        self.kill()

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        if not self.log_file.exists():
            return "no log"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
