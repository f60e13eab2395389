"""What the HTTP API shows of memory, as plain JSON data; who may ask is `api`'s matter."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from cloud_sync.coordinator.memory import Memory
from cloud_sync.coordinator.records import Record
from cloud_sync.core.fleet import Rollout
from cloud_sync.core.progress import Progress, progress
from edge_agent.contract.device_state import SlotState, SnapshotRef, TurnedAway

VERSION = version("holdfast")


def health(memory: Memory) -> dict[str, Any]:
    """Degraded: without a broker, or while nothing is planned."""
    stopped, since = memory.stopped(), memory.broker_since_unix_ms
    return {
        "status": "ok" if stopped is None and since is not None else "degraded",
        "broker": {"connected": since is not None, "since_unix_ms": since},
        "planning": planning(memory),
        "version": VERSION,
    }


def planning(memory: Memory) -> dict[str, Any]:
    """Why nothing is planned, with the next step; null when everything is."""
    stopped = memory.stopped()
    return {"stopped": None if stopped is None else str(stopped)}


def snapshots(memory: Memory) -> dict[str, Any]:
    """All snapshots by name and release, and when the metadata's first date comes."""
    catalog = memory.catalog
    entries = sorted(catalog.entries.values(), key=lambda entry: (entry.name, entry.release))
    return {
        "snapshots": [
            {
                "name": entry.name,
                "version": entry.version,
                "release": entry.release,
                "digest": entry.digest,
                "bytes": entry.bytes,
                "published_unix_ms": memory.known.get((entry.name, entry.version), ("", 0))[1],
            }
            for entry in entries
        ],
        "expires": catalog.expires.isoformat() if catalog.expires else None,
    }


def device(memory: Memory, record: Record) -> dict[str, Any]:
    """One device, as it told of itself and as it was assigned."""
    row, state = record.row, record.state
    names = sorted({*row.models, *(state.models if state else ())})
    return {
        "device_id": row.device_id,
        "device_type": row.device_type,
        "agent_version": row.agent_version,
        "online": record.device(memory.epoch).online(memory.now_s()),
        "last_heard_unix_ms": row.last_heard_unix_ms,
        "epoch": row.told_epoch,
        "revision": row.told_revision,
        "lost_reports": record.lost_reports,
        "storage": state.storage if state else None,
        "models": {name: _slot(record, name, state.models.get(name) if state else None) for name in names},
    }


def rollouts(memory: Memory) -> list[dict[str, Any]]:
    """All rollouts, newest first."""
    shown = progress(memory.fleet(), memory.rollouts, memory.now_s())
    return [_rollout(one, shown[one.rollout_id]) for one in reversed(memory.rollouts)]


def rollout(memory: Memory, rollout_id: str) -> dict[str, Any] | None:
    """One rollout; None when there is none of this id."""
    shown = progress(memory.fleet(), memory.rollouts, memory.now_s())
    return next((_rollout(one, shown[rollout_id]) for one in memory.rollouts if one.rollout_id == rollout_id), None)


def _rollout(one: Rollout, shown: Progress) -> dict[str, Any]:
    halted = shown.halted
    return {
        "id": one.rollout_id,
        "model": one.model,
        "version": one.version,
        "digest": one.digest,
        "strategy": one.strategy.value,
        "kind": one.kind.value,
        "generation": one.generation,
        "created_unix_ms": one.created_unix_ms,
        "policy": msgspec.to_builtins(one.policy),
        "state": shown.state.value,
        "halted_by": {"device_id": halted.device_id, "reason": halted.reason} if halted else None,
        "devices": {device_id: stage.value for device_id, stage in shown.devices.items()},
    }


def _slot(record: Record, model: str, slot: SlotState | None) -> dict[str, Any]:
    target = record.assigned.models.get(model)
    return {
        "serving": slot.serving if slot else False,
        "active": _ref(slot.active if slot else None),
        "wanted": _ref(slot.wanted if slot else None),
        "candidate": msgspec.to_builtins(slot.candidate) if slot and slot.candidate else None,
        "assigned": {"version": target.version, "digest": target.digest, "generation": target.generation}
        if target
        else None,
        "held": bool(slot and slot.assigned and slot.assigned.held),
        "pinned": bool(slot and slot.pinned),
        "reason": slot.reason if slot else None,
        "declined": _turned(slot.declined) if slot and slot.declined else None,
        "turned_away": [_turned(turned) for turned in slot.turned_away] if slot else [],
        "damaged": len(slot.damaged) if slot else 0,
        "fallbacks": slot.fallbacks if slot else 0,
    }


def _ref(ref: SnapshotRef | None) -> dict[str, Any] | None:
    return None if ref is None else {"version": ref.version, "digest": ref.digest}


def _turned(turned: TurnedAway) -> dict[str, Any]:
    return {
        "version": turned.version,
        "digest": turned.digest,
        "reason": turned.reason,
        "detail": turned.detail,
        "blocked": turned.blocked,
    }
