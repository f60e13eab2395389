"""A real coordinator for the commands: `cloud-sync` as a process of its own, with its database and, where a test needs
devices, a real broker. The devices are played (`played`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from click.testing import Result

from cloud_sync.operator_cli.main import main as fleet
from tests.cli.command import document, run
from tests.harness.agent import wait_until
from tests.harness.broker import Broker
from tests.publishing import Publisher

CLOUD_SYNC = [sys.executable, "-c", "from cloud_sync.cli import main; main()"]
FLEET = [sys.executable, "-m", "cloud_sync.operator_cli"]
NO_BROKER = "127.0.0.1:1"  # nothing listens there: a coordinator serves its API without one
START_S = 30.0
END_S = 20.0


class CoordinatorProcess:
    """`cloud-sync serve` in a folder; use with `with`. The publisher's root is pinned, its key is authorised.

    broker: with the user `coordinator`; None = there is none.
    """

    def __init__(self, folder: Path, publisher: Publisher, broker: Broker | None = None) -> None:
        self.folder = folder
        self.publisher = publisher
        self._broker = broker
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder.with_suffix(".log")
        _cloud_sync("init", "--data", folder, "--root", publisher.root_file)
        _cloud_sync("migrate", "--data", folder)

    def __enter__(self) -> CoordinatorProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def public_key(self) -> Path:
        """coordinator.pub, for the publisher."""
        return self.folder / "coordinator.pub"

    @property
    def url(self) -> str:
        """Where it listens, or did."""
        return str(json.loads((self.folder / "endpoint.json").read_text())["url"])

    @property
    def env(self) -> dict[str, str]:
        """What `fleet` needs to ask it."""
        return {
            "HOLDFAST_COORDINATOR": self.url,
            "HOLDFAST_TOKEN_FILE": str(self.folder / "token"),
            "HOLDFAST_KEYS": str(self.publisher.keys),
        }

    def start(self, http: str = "127.0.0.1:0") -> CoordinatorProcess:
        """Start it, and return once it listens. Raises AssertionError with its log when it ends by itself."""
        (self.folder / "endpoint.json").unlink(missing_ok=True)
        broker = self._broker.address if self._broker else NO_BROKER
        command = [*CLOUD_SYNC, "serve", "--data", str(self.folder), "--broker", broker, "--http", http]
        if self._broker:
            command += ["--password-file", str(self._broker.folder / "coordinator.password")]
        with self._log.open("ab") as log:
            process = self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or self._listens(), "the coordinator listens", START_S)
            assert process.poll() is None, self.log_tail()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it, at the latest by kill -9; no harm when it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def run(self, *arguments: object, code: int = 0, **env: str) -> Result:
        """`fleet` with these arguments, asking this coordinator."""
        return run(fleet, *arguments, code=code, env={**self.env, "HOLDFAST_REPO": "", **env})

    def document(self, *arguments: object, code: int = 0, **env: str) -> Any:
        """The same, with --json: the document."""
        return document(fleet, *arguments, code=code, env={**self.env, "HOLDFAST_REPO": "", **env})

    def begin(self, *arguments: object) -> subprocess.Popen[str]:
        """`fleet` as a process beside the test, which has to end it."""
        return subprocess.Popen(
            [*FLEET, *map(str, arguments)],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def publish(self) -> Any:
        """Name this coordinator, and upload all that the publisher's repository has."""
        self.publisher.authorize_coordinator(self.public_key.read_text().strip())
        return self.document("snapshot", "publish", "--all", "--repo", self.publisher.repository.folder)

    def _listens(self) -> bool:
        return (self.folder / "endpoint.json").exists()


def _cloud_sync(*arguments: object) -> None:
    done = subprocess.run(
        [*CLOUD_SYNC, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
