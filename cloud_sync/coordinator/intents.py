"""What operators wish: rollouts and rollbacks, checked by name before anything is made of them; planning is beside."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from cloud_sync import limits
from cloud_sync.coordinator.memory import Memory, now_unix_ms
from cloud_sync.coordinator.planner import Planner
from cloud_sync.core.fleet import Kind, Rollout, Strategy
from cloud_sync.core.plan import refusals
from cloud_sync.repository.catalog import Entry
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.policy import NO_POLICY, Policy
from edge_agent.contract.reasons import Reason


class Unknown(Rejected):
    """There is no such thing here; the message names what is nearest."""


class Intents:
    """Takes an operator's wish, or says what is wrong with it."""

    def __init__(self, memory: Memory, planner: Planner) -> None:
        self._memory = memory
        self._planner = planner

    async def roll_out(
        self,
        model: str,
        version: str,
        *,
        strategy: Strategy,
        kind: Kind,
        devices: Sequence[str] | None,
        policy: Policy = NO_POLICY,
    ) -> Rollout:
        """Make a rollout and what follows from it at once; it is committed then.

        Raises Unknown (unknown_version, unknown_device), Rejected (no_devices), Unavailable (planning is stopped, the
        database refuses).
        """
        stopped = self._memory.stopped()
        if stopped is not None:
            raise stopped
        entry = self._snapshot(model, version)
        self._check_devices(model, devices)
        if devices is not None and len(devices) > limits.ROLLOUT_DEVICES_MAX:
            raise Rejected(f"{len(devices)} devices are named", reason=Reason.TOO_LARGE, next_step="Leave --device out")
        if len(self._memory.rollouts) > 2 * limits.ROLLOUTS_MAX:
            raise Unavailable("too many rollouts stand", next_step="Roll out to all devices: that replaces the others")

        def make(number: int) -> Rollout:
            return Rollout(
                rollout_id=f"r{number}",
                number=number,
                model=model,
                version=version,
                digest=entry.digest,
                generation=self._memory.generations.get(model, 0) + 1,
                created_unix_ms=now_unix_ms(),
                strategy=strategy,
                kind=kind,
                devices=None if devices is None else frozenset(devices),
                refused_before=refusals(self._memory.fleet(), model, entry.digest),
                policy=policy,
            )

        return await self._planner.add(make)

    def _snapshot(self, model: str, version: str) -> Entry:
        entries = self._memory.catalog.entries.values()
        found = self._memory.catalog.find(model, version)
        if found is not None:
            return found
        versions = [entry.version for entry in entries if entry.name == model]
        if versions:
            raise _unknown(f"{model}@{version} is not published here", version, versions, Reason.UNKNOWN_VERSION)
        names = {entry.name for entry in entries}
        raise _unknown(f"no snapshot of a model {model} is published here", model, names, Reason.UNKNOWN_VERSION)

    def _check_devices(self, model: str, devices: Sequence[str] | None) -> None:
        records = self._memory.records
        for device_id in devices or ():
            if device_id not in records:
                raise unknown_device(device_id, records)
        named = [records[d] for d in devices] if devices is not None else list(records.values())
        without = [record.row.device_id for record in named if model not in record.row.models]
        if len(without) == len(named) or (devices is not None and without):
            who = f"{', '.join(without[:3])} does not run" if devices else "no known device runs"
            raise Rejected(f"{who} the model {model}", reason=Reason.NO_DEVICES)


def unknown_device(device_id: str, known: Iterable[str]) -> Unknown:
    """The coordinator has never heard of this device."""
    return _unknown(f"there is no device {device_id}", device_id, known, Reason.UNKNOWN_DEVICE)


def unknown_rollout(rollout_id: str, known: Iterable[str]) -> Unknown:
    """There is no such rollout."""
    return _unknown(f"there is no rollout {rollout_id}", rollout_id, known, None)


def _unknown(message: str, word: str, known: Iterable[str], reason: Reason | None) -> Unknown:
    near = difflib.get_close_matches(word, sorted(known), limits.CLOSE_MATCHES, cutoff=0.4)
    said = {
        Reason.UNKNOWN_VERSION: "See `fleet snapshot list` for what is published",
        Reason.UNKNOWN_DEVICE: Reason.UNKNOWN_DEVICE.next_step,
        None: "See `fleet rollout status` for all rollouts",
    }
    return Unknown(f"{message}; near: {', '.join(near)}" if near else message, reason=reason, next_step=said[reason])
