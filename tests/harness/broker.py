"""One real mosquitto in a folder of its own, with the configuration of packaging/broker; ended by its process id.

What clients may do there is the tests' of tests/broker. Needs a mosquitto: packaging/setup.sh brings one.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

from tests.harness.agent import ROOT, wait_until
from tests.harness.child import Child

BROKER_SH = ROOT / "packaging" / "broker" / "broker.sh"
HOST = "127.0.0.1"
STARTS_MAX = 5  # a free port may be taken by somebody else before mosquitto has it
READY_S = 20.0


class Broker(Child):
    """A broker in `folder`. With `with` it is started at the beginning and ended at the end. A start after an end has
    the same port and users, and nothing else of before.

    certificates: TLS with client certificates; ca.pem, server.pem and server.key have to be in the folder.
    detached: it is to outlive this process, in a session of its own.
    """

    def __init__(self, folder: Path, *, certificates: bool = False, detached: bool = False) -> None:
        super().__init__(folder, "broker.log")
        self.port = 0  # the first start takes a free one; it stays the same
        self._certificates = certificates
        self._detached = detached

    def __enter__(self) -> Broker:
        return self.start()

    @property
    def address(self) -> str:
        """host:port, as `[sync] broker` and `cloud-sync serve --broker` take it."""
        assert self.port, "it was never started"
        return f"{HOST}:{self.port}"

    def start(self) -> Broker:
        """Start it, on the port of the last start, and return once it accepts connections.

        Raises AssertionError with its log when it ends by itself.
        """
        for _ in range(1 if self.port else STARTS_MAX):
            port = self._start_once()
            if port is not None:
                self.port = port
                return self
            if "in use" not in self.log_tail(2):
                break
        raise AssertionError(f"the broker did not start: {self.log_tail()}")

    def _start_once(self) -> int | None:
        """The port on which it accepts connections; None when it has ended, which the log explains."""
        (self.folder / "port").unlink(missing_ok=True)
        command = [BROKER_SH, "start", self.folder, f"{HOST}:{self.port}"]
        log_from = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            process = self._process = subprocess.Popen(
                [*map(str, command), *(["--certificates"] if self._certificates else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._detached,
            )
        try:
            wait_until(
                lambda: process.poll() is not None or self._accepts(log_from),
                lambda: f"the broker accepts connections: {self.log_tail()}",
                READY_S,
            )
        except BaseException:
            self.kill()
            raise
        return None if process.poll() is not None else int((self.folder / "port").read_text())

    def _accepts(self, log_from: int) -> bool:
        if b" running" not in self.log_file.read_bytes()[log_from:]:
            return False  # whoever accepts connections there is somebody else
        with contextlib.suppress(OSError, ValueError):
            port = int((self.folder / "port").read_text())
            with socket.create_connection((HOST, port), timeout=1.0):
                return True
        return False

    def add_user(self, name: str) -> Path:
        """A new random password for this user; the file that it is in. The running broker takes it at once."""
        command = [str(BROKER_SH), "user", str(self.folder), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return self.folder / f"{name}.password"

    def password(self, name: str) -> str:
        """The password of a user that was added."""
        return (self.folder / f"{name}.password").read_text().strip()
