"""One real `cloud-sync serve` in a data folder of its own: started, asked, killed and stopped by its process id.

What is asserted is the tests'; devices are agents (`agent`) or scripted ones (tests/cloud/device.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from cloud_sync.client.api import Coordinator as Client
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.upload import upload
from tests.harness.agent import wait_until
from tests.harness.broker import Broker
from tests.publishing import Publisher

CLOUD_SYNC = [sys.executable, "-m", "cloud_sync.cli"]
END_S = 20.0


class Coordinator:
    """A coordinator in `folder`, made with `cloud-sync init`. Use with `with`: it is ended at the end."""

    def __init__(self, folder: Path, publisher: Publisher, broker: Broker) -> None:
        self.data = folder
        self.log_file = folder.with_name(folder.name + ".log")
        self.publisher = publisher
        self.broker = broker
        self._process: subprocess.Popen[bytes] | None = None
        self.command("init", "--data", str(folder), "--root", str(publisher.root_file))

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def command(*arguments: str) -> str:
        """Run `cloud-sync ARGUMENTS`, which has to succeed; its stdout."""
        done = subprocess.run([*CLOUD_SYNC, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def public_key(self) -> str:
        """What the publisher authorizes, in hexadecimal."""
        return (self.data / "coordinator.pub").read_text().strip()

    def serve_command(self) -> list[str]:
        """What `start` runs."""
        password = self.broker.add_user("coordinator")
        return [
            *CLOUD_SYNC, "serve", "--data", str(self.data), "--broker", self.broker.address, "--http", "127.0.0.1:0",
            "--password-file", str(password),
        ]  # fmt: skip

    def start(self) -> Coordinator:
        """Start it, and return once it listens."""
        (self.data / "endpoint.json").unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            process = self._process = subprocess.Popen(
                self.serve_command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def listens() -> bool:
            assert process.poll() is None, f"the coordinator ended with {process.returncode}: {self.log_tail()}"
            return (self.data / "endpoint.json").exists()

        wait_until(listens, lambda: f"the coordinator listens: {self.log_tail()}")
        return self

    def start_and_connect(self) -> Coordinator:
        """Start it, and return once it is connected to the broker."""
        self.start()
        self.wait_connected()
        return self

    def wait_connected(self) -> None:
        """Return once it is connected to the broker."""
        wait_until(lambda: self.health()["broker"]["connected"], lambda: f"it is connected: {self.log_tail()}")

    @property
    def pid(self) -> int:
        """Of the process that runs (or ran last)."""
        assert self._process is not None, "it was never started"
        return self._process.pid

    @property
    def url(self) -> str:
        """Where its API is."""
        return str(json.loads((self.data / "endpoint.json").read_text())["url"])

    def client(self) -> Client:
        """A client of its API, as `fleet` is one; use with `with`."""
        return Client(self.url, self.data / "token")

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, dict[str, Any]]:
        """One request with the operator's token: status and document."""
        token = (self.data / "token").read_text().strip()
        raw = None if document is None else json.dumps(document).encode()
        status, body = self.raw(method, path, raw, {"Authorization": f"Bearer {token}"})
        return status, json.loads(body)

    def raw(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Any request: status and bytes."""
        import urllib.error
        import urllib.request

        request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status), bytes(answer.read())
        except urllib.error.HTTPError as error:
            return int(error.code), error.read()

    def health(self) -> dict[str, Any]:
        """GET /health."""
        document: dict[str, Any] = json.loads(self.raw("GET", "/health", None, {})[1])
        return document

    def publish(self) -> None:
        """Name this coordinator in the publisher's repository, and upload all of that."""
        self.publisher.authorize_coordinator(self.public_key)
        self.upload()

    def upload(self) -> None:
        """Upload the publisher's repository, as `fleet snapshot publish --all` does."""
        with self.client() as client:
            upload(Repository(self.publisher.repository.folder), client)

    def rollout(self, version: str, strategy: str = "all", **fields: Any) -> dict[str, Any]:
        """Start a rollout of `tiny`, which has to be accepted."""
        wish = {"model": "tiny", "version": version, "strategy": strategy, **fields}
        status, document = self.ask("POST", "/v1/rollouts", wish)
        assert status == 200, document
        made: dict[str, Any] = document["rollout"]
        return made

    def rollout_now(self, rollout_id: str) -> dict[str, Any]:
        """The rollout as it is now."""
        return self.ask("GET", f"/v1/rollouts/{rollout_id}")[1]

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(END_S)

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        if not self.log_file.exists():
            return "no log"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
