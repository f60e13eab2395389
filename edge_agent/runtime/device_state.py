"""The state document for the coordinator, made from the states of all slots; the operator's is in `status`."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent import AGENT_VERSION
from edge_agent.contract import limits
from edge_agent.contract.device_state import (
    AssignedState,
    CandidateState,
    DeviceState,
    SlotState,
    SnapshotRef,
    TurnedAway,
)
from edge_agent.contract.reasons import Reason
from edge_agent.core.ladder import last_good
from edge_agent.core.state import Known, ModelState, Quarantine, RefusedOffer
from edge_agent.runtime.marks import AssignmentMark

DETAIL_TOLD_CHARS_MAX = 160  # the whole text is in the report


def device_state(
    device_id: str,
    connection_id: str,
    states: tuple[ModelState, ...],
    *,
    number: int,
    at_unix_ms: int,
    routed: Callable[[str], str | None],
    storage_reason: Reason | None,
    taken: AssignmentMark,
) -> DeviceState:
    """Everything at once, within the bounds of the contract."""
    return DeviceState(
        device_id=device_id,
        connection_id=connection_id,
        number=number,
        at_unix_ms=max(at_unix_ms, 0),
        agent_version=AGENT_VERSION,
        epoch=taken.epoch,
        revision=taken.revision,
        storage=storage_reason.value if storage_reason else None,
        models={state.model: _slot(state, routed(state.model)) for state in states},
    )


def _slot(state: ModelState, routed: str | None) -> SlotState:
    wish, candidate = state.assigned, state.candidate
    here = sorted(state.known, key=lambda known: known.release)[-limits.SNAPSHOTS_TOLD_MAX :]
    return SlotState(
        serving=state.active is not None and routed == state.active and state.live_count(state.active) > 0,
        status=state.status.value,
        active=_ref(state.find(state.active)),
        last_good=_ref(last_good(state)),
        wanted=_ref(state.find(state.wanted)),
        candidate=(
            CandidateState(candidate.snapshot.version, candidate.digest, candidate.phase.value) if candidate else None
        ),
        assigned=AssignedState(wish.digest, wish.generation, state.held) if wish else None,
        reason=state.fallback_reason.value if state.fallback_reason else None,
        declined=_turned_away(state.declined, blocked=False) if state.declined else None,
        turned_away=_all_turned_away(state),
        on_disk=tuple(ref for ref in map(_ref, here) if ref is not None),
        damaged=tuple(known.digest for known in here if known.damaged),
        fallbacks=state.fallbacks,
        pinned=state.pinned,
    )


def _all_turned_away(state: ModelState) -> tuple[TurnedAway, ...]:
    """The newest first to stay, of both kinds."""
    records: list[tuple[Quarantine | RefusedOffer, bool]] = [
        (record, record.generation == state.generation) for record in state.quarantine
    ]
    records += [(refused, False) for refused in state.refused_offers]
    newest = sorted(records, key=lambda pair: pair[0].at_unix_ms)[-limits.TURNED_AWAY_TOLD_MAX :]
    return tuple(_turned_away(record, blocked=blocked) for record, blocked in newest)


def _turned_away(record: Quarantine | RefusedOffer, *, blocked: bool) -> TurnedAway:
    return TurnedAway(
        record.version, record.digest, record.reason.value, blocked, record.detail[:DETAIL_TOLD_CHARS_MAX]
    )


def _ref(known: Known | None) -> SnapshotRef | None:
    return SnapshotRef(known.version, known.digest) if known else None
