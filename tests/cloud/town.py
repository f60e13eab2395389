"""One coordinator with its broker and its publisher, asked as an operator asks; scripted devices are in `device`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cloud_sync.client.api import Coordinator as Client
from cloud_sync.folder import DataFolder, init
from cloud_sync.publish.upload import upload
from tests.harness.agent import Forked, wait_until
from tests.harness.broker import Broker
from tests.harness.coordinator import Coordinator
from tests.publishing import Publisher


class Town(Coordinator):
    """A coordinator that was made, and is not started. Use with `with`: it is ended."""

    def __init__(self, folder: Path, publisher: Publisher, broker: Broker) -> None:
        self.publisher = publisher
        self.broker = broker
        password_file = broker.add_user("coordinator")
        super().__init__(folder, publisher.root_file, address=broker.address, password_file=password_file)
        init(DataFolder(self.data), publisher.root_file)

    def start(self) -> Town:
        """Start it, from a server that has imported it already, and return once its API answers."""
        arguments = ["serve", "--data", str(self.data), *self._options]
        process = Forked(run_in_fork, arguments, self.log_file, preload=["cloud_sync.service"])
        self._process = process  # type: ignore[assignment]  # the same verbs

        def answers() -> dict[str, Any] | None:
            assert process.poll() is None, f"the coordinator ended with {process.returncode}: {self.log_tail()}"
            return self.health_or_none()

        wait_until(answers, lambda: f"the coordinator answers: {self.log_tail()}")
        return self

    def restart(self) -> None:
        """Start it again after it was killed or stopped, and return once it is connected to the broker."""
        self.start()
        self.wait_connected()

    @property
    def exit_code(self) -> int | None:
        """Of the process that ended last."""
        assert self._process is not None
        return self._process.returncode

    @property
    def public_key(self) -> str:
        """What the publisher authorizes, in hexadecimal."""
        return self.public_key_file.read_text().strip()

    def publish(self) -> None:
        """Name this coordinator in the publisher's repository, and upload all of that."""
        self.publisher.authorize_coordinator(self.public_key)
        self.upload()

    def upload(self) -> None:
        """Upload the publisher's repository, as `fleet snapshot publish --all` does."""
        with Client(self.url, self.token_file) as client:
            upload(self.publisher.repository, client)

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, dict[str, Any]]:
        """One request with the operator's token: status and document."""
        body = None if document is None else json.dumps(document).encode()
        status, raw = self.raw(method, path, body, self.authorized())
        return status, json.loads(raw)

    def authorized(self) -> dict[str, str]:
        """The header with the operator's token."""
        return {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Any request: status and bytes."""
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status), bytes(answer.read())
        except urllib.error.HTTPError as error:
            return int(error.code), error.read()

    def metric(self, line: str) -> float:
        """The value of one line of GET /metrics, 0 where it is not there."""
        for found in self.raw("GET", "/metrics")[1].decode().splitlines():
            if found.startswith(f"{line} "):
                return float(found.rpartition(" ")[2])
        return 0.0

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

    def device(self, device_id: str) -> dict[str, Any]:
        """A device as operators see it."""
        return self.ask("GET", f"/v1/devices/{device_id}")[1]


def run_in_fork(arguments: list[str], log_file: Path) -> None:
    """What `cloud-sync ARGUMENTS` does, with its log in a file."""
    from cloud_sync.cli import main as command

    log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    command(arguments)
