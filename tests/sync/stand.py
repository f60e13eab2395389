"""One real sync process with its ends: a link to the broker that can be cut, the process itself, and what to wait for.
The ends are in `runtime` and `coordinator`.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests.harness.agent import ROOT, wait_until
from tests.harness.broker import HOST, Broker
from tests.sync.coordinator import ScriptedCoordinator
from tests.sync.runtime import DEVICE, ScriptedRuntime


class Wire:
    """A TCP link to the broker that can be cut, closed and slowed down. bytes_s_max: towards the device."""

    def __init__(self, broker: Broker) -> None:
        self.bytes_s_max = 0  # 0: as fast as it can
        self._to = (HOST, broker.port)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._pacing = threading.Event()
        self._port = 0
        self.restore()
        self.address = f"{HOST}:{self._port}"

    def cut(self) -> None:
        """End what is connected, without a goodbye."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def restore(self) -> None:
        """The broker is there (again)."""
        self._listener = socket.create_server((HOST, self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No link any more: who connects is refused."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:  # until the listener is closed
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._to)
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                for one, other, slow in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=(one, other, slow), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 12):
                if slow and self.bytes_s_max:
                    self._pacing.wait(len(data) / self.bytes_s_max)  # never set: this is the link's rate
                target.sendall(data)
        _end(source, target)


def _end(source: socket.socket, target: socket.socket) -> None:
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Stand:
    """Everything for one test. `start` starts the process."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self.broker = broker
        self.wire = Wire(broker)
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
            sys.executable, "-m", "edge_agent.sync", "--socket", str(self.runtime.path), "--broker", self.wire.address,
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
        self.wire.close()


def a_file(size: int) -> bytes:
    """Bytes that nobody has had before."""
    return secrets.token_bytes(size)
