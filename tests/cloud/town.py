"""One coordinator with its broker and its publisher, asked as an operator asks; scripted devices are in `device`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cloud_sync.client.api import Coordinator as Client
from cloud_sync.folder import DataFolder, init
from cloud_sync.publish.upload import upload
from tests.harness.broker import Broker
from tests.harness.coordinator import Coordinator
from tests.publishing import Publisher


class Town(Coordinator):
    """A coordinator that was made, and is not started. Use with `with`: it is ended."""

    def __init__(self, folder: Path, publisher: Publisher, broker: Broker) -> None:
        self.publisher = publisher
        self.broker = broker
        password_file = broker.add_user("coordinator")
        super().__init__(folder, publisher.root_file, address=broker.address, password_file=password_file, forked=True)
        init(DataFolder(self.data), publisher.root_file)

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
