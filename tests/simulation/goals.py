"""What is reached once nothing fails any more: what is wanted is confirmed, or the best rung serves with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.core.serving import has_rung_below
from edge_agent.core.state import ModelState, Phase, Status
from tests.simulation.coordinator import EPOCH
from tests.simulation.faults import MODEL, Nature

if TYPE_CHECKING:
    from tests.simulation.device import Device

GOAL_S = 7200.0  # an hour of overtime of a trial that sees nothing, pauses of ways back, and room


def why_not_yet(device: Device) -> str | None:
    """What this device has not reached yet, None when all is well."""
    if not device.is_up:
        return "it is down"
    state, executor = device.executor.state(MODEL), device.executor
    if not executor.is_saved(MODEL) or executor.storage_reason is not None:
        return "the disk works and is not used"
    if device.disk.acknowledged < len(device.disk.history):
        return "reports are not acknowledged"
    record = device.world.coordinator.records.get(device.name)
    if record is None:
        return "the coordinator has not heard of it"
    given = record.target
    if given is not None:
        if state.assigned is None or state.assigned.order != (EPOCH, given.generation):
            return f"it has not taken generation {given.generation}"
        if state.assigned.digest != given.digest:
            return "it was assigned something else"
    return _not_serving(device, state) or _not_as_assigned(device, state)


def _not_serving(device: Device, state: ModelState) -> str | None:
    """Whatever is here, whole and good serves."""
    if state.status is Status.UP and state.candidate is None:
        if state.active != state.wanted and state.fallback_reason is None:
            return "another one serves than is wanted, for no reason"
        return None
    watched = state.active if state.candidate_is_active and state.phase is Phase.PROBATION else None
    if watched and device.nature(watched) is not Nature.GOOD and not has_rung_below(state):
        return None  # a bad model beats none, and is never confirmed
    if state.phase not in (Phase.NONE, Phase.ASSIGNED):
        return f"a candidate is {state.phase.value}"
    if state.status is Status.UP:
        return None
    usable = [
        known
        for known in state.known
        if (known.is_settled or known.digest == state.wanted)
        and not known.damaged
        and device.nature(known.digest) is Nature.GOOD
        and state.is_quarantined(known.digest) is None
    ]
    wanted = state.find(state.wanted)
    if wanted is not None and not state.rules.allow_interface_change:
        usable = [known for known in usable if known.interface == wanted.interface]
    return f"{state.status.value} with {usable[0].version} here" if usable else None


def _not_as_assigned(device: Device, state: ModelState) -> str | None:
    """The assigned one is confirmed, or there is a reason why not."""
    wish = state.assigned
    if wish is None or state.held or state.pinned:
        return None
    known = state.find(wish.digest)
    if state.active == wish.digest and state.candidate is None and known is not None and known.is_settled:
        return None
    refused = state.is_quarantined(wish.digest) or any(one.digest == wish.digest for one in state.refused_offers)
    if refused or state.climbs >= limits.CLIMBS_MAX:
        return None
    if state.active is None and state.fallback_reason is Reason.LADDER_EXHAUSTED:
        return None  # nothing here can serve (`_not_serving`): it is said so, and tried again now and then
    if device.nature(wish.digest) is not Nature.GOOD:
        return "a bad snapshot is assigned and not turned away" if state.active != wish.digest else None
    return f"{wish.version} is assigned, good, and not confirmed"
