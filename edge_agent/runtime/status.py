"""The status document (stable outside behaviour: scripts rely on it); states are read here, never changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_agent import AGENT_VERSION
from edge_agent.contract.reasons import Reason
from edge_agent.core.ladder import last_good
from edge_agent.core.state import Known, ModelState, Quarantine, RefusedOffer


def status_document(
    device_id: str,
    states: tuple[ModelState, ...],
    *,
    routed: Callable[[str], str | None],
    storage_reason: Reason | None,
    link: dict[str, Any],
    http: str,
    processes: dict[str, Any],
) -> dict[str, Any]:
    """What `edge-agent status --json` prints; `storage` is null while the state folder can be written."""
    return {
        "device_id": device_id,
        "agent_version": AGENT_VERSION,
        "http": http,
        "models": {state.model: model_document(state, routed(state.model)) for state in states},
        "storage": storage_reason.value if storage_reason else None,
        "sync": link,
        "processes": processes,
    }


def model_document(state: ModelState, routed: str | None) -> dict[str, Any]:
    """One slot; `routed` is the snapshot to which the front sends requests.

    Active, last good, candidate, quarantine, and why another snapshot than the wanted one serves.
    """
    active = state.find(state.active)
    good = last_good(state)
    candidate = state.candidate
    wanted = state.find(state.wanted)
    return {
        "serving": state.active is not None and routed == state.active and state.live_count(state.active) > 0,
        "status": state.status.value,
        "active": {**_named(active), "since": state.active_since_unix_ms / 1000} if active else None,
        "last_good": _named(good) if good else None,
        "wanted": _named(wanted) if wanted else None,
        "candidate": {**_named(candidate.snapshot), "phase": candidate.phase.value} if candidate else None,
        "assigned": _assigned(state),
        "held": state.held,
        "pinned": state.pinned,
        "reason": state.fallback_reason.value if state.fallback_reason else None,
        "quarantined": _turned_away(state),
        "declined": _declined(state),
        "snapshots": [
            {
                **_named(known),
                "release": known.release,
                "confirmed": known.confirmed_unix_ms > 0,
                "factory": known.factory,
                "damaged": known.damaged,
            }
            for known in sorted(state.known, key=lambda known: known.release)
        ],
        "fallbacks": state.fallbacks,
        "workers": state.live_count(state.active) if state.active else 0,
    }


def _assigned(state: ModelState) -> dict[str, Any] | None:
    """The coordinator's wish; `held`: somebody on the device chose otherwise since."""
    wish = state.assigned
    if wish is None:
        return None
    return {"version": wish.version, "digest": wish.digest, "generation": wish.generation, "held": state.held}


def _declined(state: ModelState) -> dict[str, Any] | None:
    """The last candidate that could not be taken, and why: not a failure of the snapshot."""
    record = state.declined
    if record is None:
        return None
    return {
        "version": record.version,
        "digest": record.digest,
        "reason": record.reason.value,
        "detail": record.detail,
    }


def _turned_away(state: ModelState) -> list[dict[str, Any]]:
    """Quarantine records, then refused offers that were not believed; `blocked`: not tried again in this generation."""
    records: list[tuple[Quarantine | RefusedOffer, bool]] = [
        (record, record.generation == state.generation) for record in state.quarantine
    ]
    records += [(offer, False) for offer in state.refused_offers]
    return [
        {
            "version": record.version,
            "digest": record.digest,
            "reason": record.reason.value,
            "detail": record.detail,
            "blocked": blocked,
        }
        for record, blocked in records
    ]


def _named(known: Known) -> dict[str, str]:
    return {"version": known.version, "digest": known.digest}
