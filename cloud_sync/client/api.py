"""The verbs of the coordinator's API; how a request travels and how errors are told is transport.py's matter."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from cloud_sync.client import documents as said
from cloud_sync.client.transport import Bounds, Transport, read_token
from edge_agent.contract.evidence import Evidence, encode_evidence
from edge_agent.contract.policy import NO_POLICY, Policy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told(Generic[T]):
    """An answer: the document as it came, for scripts, and what this version reads in it.

    at_unix_ms: the coordinator's clock when it answered.
    """

    document: dict[str, Any]
    view: T
    at_unix_ms: int | None


class Coordinator(AbstractContextManager["Coordinator"]):
    """One coordinator's API; use with `with`. Each verb raises Rejected or Unavailable, with the next step."""

    def __init__(self, url: str, token_file: Path, *, bounds: Bounds | None = None) -> None:
        """Raises Rejected for a wrong address or a file without a token."""
        self._transport = Transport(url, read_token(token_file), bounds=bounds)

    def __enter__(self) -> Coordinator:
        self._transport.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._transport.url

    @property
    def is_plain(self) -> bool:
        """Whether the token travels unencrypted over a network."""
        return self._transport.is_plain

    def health(self) -> Told[said.Health]:
        """How it is itself: connected to the broker, planning or not."""
        return self._ask(said.Health, "GET", "/health")

    def snapshots(self) -> Told[said.Snapshots]:
        """What is published there."""
        return self._ask(said.Snapshots, "GET", "/v1/snapshots")

    def devices(self) -> Told[said.Devices]:
        """Every device that ever said hello."""
        return self._ask(said.Devices, "GET", "/v1/devices")

    def device(self, device_id: str) -> Told[said.Device]:
        """One device with its newest reports. Raises Rejected (unknown_device)."""
        return self._ask(said.Device, "GET", f"/v1/devices/{_segment(device_id)}")

    def device_token(self, device_id: str) -> Told[said.DeviceToken]:
        """What this device shows when it fetches over HTTP; also of one that was never there."""
        return self._ask(said.DeviceToken, "GET", f"/v1/devices/{_segment(device_id)}/token")

    def rollouts(self) -> Told[said.Rollouts]:
        """All rollouts and rollbacks."""
        return self._ask(said.Rollouts, "GET", "/v1/rollouts")

    def rollout(self, rollout_id: int | str) -> Told[said.Rollout]:
        """One of them."""
        return self._ask(said.Rollout, "GET", f"/v1/rollouts/{_segment(str(rollout_id))}")

    def start_rollout(
        self, model: str, version: str, strategy: str, devices: Sequence[str] | None, policy: Policy = NO_POLICY
    ) -> Told[said.OneRollout]:
        """Assign a snapshot. strategy: all (at once) or one (after another). devices: None = all that run the model."""
        wish = {
            "model": model,
            "version": version,
            "strategy": strategy,
            "devices": devices,
            "policy": msgspec.to_builtins(policy),
        }
        return self._ask(said.OneRollout, "POST", "/v1/rollouts", document=wish)

    def roll_back(self, model: str, version: str, devices: Sequence[str] | None) -> Told[said.OneRollout]:
        """Assign an earlier snapshot, to all at once."""
        wish = {"model": model, "version": version, "devices": devices}
        return self._ask(said.OneRollout, "POST", "/v1/rollback", document=wish)

    def resume(self) -> Told[said.Resumed]:
        """Accept the database as it is, after it was restored from a backup."""
        return self._ask(said.Resumed, "POST", "/v1/resume")

    def missing(self, chunks: Sequence[str]) -> tuple[str, ...]:
        """Which of these chunks (at most SNAPSHOT_CHUNKS_MAX) are not there."""
        wish = {"chunks": chunks}
        return self._ask(said.Missing, "POST", "/v1/repository/missing", document=wish).view.missing

    def put_chunk(self, sha256: str, content: bytes) -> None:
        """Send one chunk."""
        self._transport.ask("PUT", f"/v1/repository/chunks/{_segment(sha256)}", raw=content)

    def put_manifest(self, name: str, version: str, raw: bytes) -> None:
        """Send one manifest; it counts only with the metadata that names it."""
        self._transport.ask("PUT", f"/v1/repository/manifests/{_segment(name)}/{_segment(version)}", raw=raw)

    def put_coordinator(self, raw: bytes) -> None:
        """Send the signed coordinator.json."""
        self._transport.ask("PUT", "/v1/repository/coordinator", raw=raw)

    def put_metadata(self, evidence: Evidence) -> int:
        """Publish what was sent: the number of snapshots then."""
        answer = self._transport.ask("POST", "/v1/repository/metadata", raw=encode_evidence(evidence))
        return self._view(said.Taken, answer.document).snapshots

    def _ask(self, kind: type[T], method: str, path: str, *, document: Any = None) -> Told[T]:
        answer = self._transport.ask(method, path, document=document)
        return Told(answer.document, self._view(kind, answer.document), answer.at_unix_ms)

    def _view(self, kind: type[T], document: dict[str, Any]) -> T:
        try:
            return msgspec.convert(document, kind)
        except msgspec.ValidationError as error:
            raise self._transport.stranger(str(error)) from error


def _segment(text: str) -> str:
    """One level of a path, whatever an operator has typed."""
    return quote(text, safe="")
