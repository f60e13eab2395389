"""One real coordinator in a folder of its own: `cloud-sync init` and `serve`, ended by its process id.

What it decides is asserted in the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.harness.agent import Forked, wait_until
from tests.harness.child import Child

CLOUD_SYNC = [sys.executable, "-m", "cloud_sync.cli"]
HOST = "127.0.0.1"
READY_S = 30.0
PORTS = range(20_000, 32_000)  # below what the kernel gives to outgoing connections: still free at a second start
TRIES_MAX = 100


def free_port() -> int:
    """A port on loopback on which nothing listens now, and hardly ever will."""
    for port in random.sample(PORTS, TRIES_MAX):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise AssertionError(f"no free port on {HOST}")


def forked_command(arguments: Sequence[str], output: Path) -> Forked:
    """`cloud-sync ARGUMENTS` as a process, from a server that has imported it already; what it says goes to a file."""
    return Forked(_run_in_fork, [*arguments], output, preload=["cloud_sync.service"])


def _run_in_fork(arguments: list[str], output: Path) -> None:
    from cloud_sync.cli import main as command

    log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    command(arguments)


class Coordinator(Child):
    """A coordinator for devices that pin `root_file`, at the broker `address` with a password file.

    `init` first, then `start`. Use with `with`: it is ended. detached: it is to outlive this process. forked: start it
    from a server that has imported it already, the same code much sooner. options: more of `cloud-sync serve`.
    """

    end_s = 15.0  # requests under way are finished first

    def __init__(
        self,
        folder: Path,
        root_file: Path,
        *,
        address: str,
        password_file: Path,
        detached: bool = False,
        forked: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, "coordinator.log")
        self.data = folder / "data"
        self.http = f"{HOST}:{free_port()}"  # the same after a restart, as `fleet` is told it once
        self._root_file = root_file
        serve = ["serve", "--data", str(self.data), "--http", self.http, "--password-file", str(password_file)]
        self._serve = [*serve, *options, "--broker", address]
        self._detached = detached
        self._forked = forked

    def __enter__(self) -> Coordinator:
        return self

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{self.http}"

    @property
    def token_file(self) -> Path:
        """The operator's token."""
        return self.data / "token"

    @property
    def public_key_file(self) -> Path:
        """What the publisher has to name: `fleet coordinator authorize`."""
        return self.data / "coordinator.pub"

    def use_broker(self, address: str) -> None:
        """Another broker from the next start on."""
        self._serve[-1] = address

    def init(self) -> Coordinator:
        """Make its folder: keys, token, database."""
        done = self.command("init", "--data", str(self.data), "--root", str(self._root_file))
        assert done.returncode == 0, done.stderr
        return self

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `cloud-sync ARGUMENTS`, whatever becomes of it."""
        return subprocess.run([*CLOUD_SYNC, *arguments], capture_output=True, text=True, timeout=60, check=False)

    def start(self) -> Coordinator:
        """Start it, and return once its API answers; it may not have reached the broker yet."""
        process = self._process = self._begun()

        def answers() -> dict[str, Any] | None:
            if process.poll() is not None:
                raise AssertionError(f"the coordinator ended with {process.returncode}: {self.log_tail()}")
            return self.health_or_none()

        try:
            wait_until(answers, lambda: f"the coordinator answers: {self.log_tail()}", READY_S)
        except BaseException:
            self.kill()
            raise
        return self

    def restart(self) -> None:
        """Start it (again, after it was killed or stopped), and return once it has reached the broker."""
        self.start()
        self.wait_connected()

    def _begun(self) -> subprocess.Popen[bytes] | Forked:
        if self._forked:
            return forked_command(self._serve, self.log_file)
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [*CLOUD_SYNC, *self._serve],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._detached,
            )

    def health_or_none(self) -> dict[str, Any] | None:
        """GET /health; None while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5.0) as answer:
                document: dict[str, Any] = json.load(answer)
                return document
        except urllib.error.URLError:
            return None

    def wait_connected(self) -> Coordinator:
        """Return once it has reached the broker."""
        wait_until(
            lambda: (self.health_or_none() or {"broker": {"connected": False}})["broker"]["connected"],
            lambda: f"the coordinator reaches the broker: {self.log_tail()}",
        )
        return self
