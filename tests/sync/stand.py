"""One real sync process with its ends: a link to the broker that can be cut, the process itself, and what to wait for.
The ends are in `runtime` and `coordinator`.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from pathlib import Path

from tests.harness.agent import ROOT, wait_until
from tests.harness.broker import HOST, Broker
from tests.harness.proxy import Link
from tests.sync.coordinator import ScriptedCoordinator
from tests.sync.runtime import DEVICE, ScriptedRuntime


class Stand:
    """Everything for one test. `start` starts the process."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self.broker = broker
        self.link = Link((HOST, broker.port))
        self.runtime = ScriptedRuntime(folder / "sync.sock")
        self.coordinator = ScriptedCoordinator(broker)
        self.log_file = folder / "sync.log"
        self.password_file = broker.folder / f"{DEVICE}.password"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs (or ran last)."""
        assert self._process is not None, "it was never started"
        return self._process

    def start(self, *more: str, environment: dict[str, str] | None = None, orphan_s: float = 30.0) -> Stand:
        """Start it as the runtime does."""
        command = [
            sys.executable, "-m", "edge_agent.sync", "--socket", str(self.runtime.path), "--broker", self.link.address,
            "--device-id", DEVICE, "--username", DEVICE, "--password-file", str(self.password_file),
            "--orphan-s", str(orphan_s), "--log-level", "debug", "--reconnect-cap-s", "0.1", *more,
        ]  # fmt: skip
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=environment
            )
        return self

    def connected(self) -> Stand:
        """Wait until it has said hello."""
        before = len(self.coordinator.heard["hello"])
        self.until(lambda: len(self.coordinator.heard["hello"]) > before, "it says hello")
        return self

    def until(self, condition: object, what: str, timeout_s: float = 20.0) -> None:
        """Wait for this; the message has the log. The process has to live meanwhile."""
        assert callable(condition)

        def holds() -> bool:
            assert self.process.poll() is None, f"sync ended with {self.process.returncode}: {self.log()}"
            return bool(condition())

        wait_until(holds, lambda: f"{what}\n{self.log()}", timeout_s)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        self.process.wait(20)

    def log(self, lines: int = 25) -> str:
        """The end of its log."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """End everything."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.coordinator.close()
        self.runtime.stop()
        self.link.go_away()


def a_file(size: int) -> bytes:
    """Bytes that nobody has had before."""
    return secrets.token_bytes(size)
