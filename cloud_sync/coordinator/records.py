"""One device in memory: its row, its last words, what it was assigned; when they change is decided beside."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloud_sync.core.fleet import Device, Slot, Turned
from cloud_sync.core.restored import Given, Told
from cloud_sync.store.devices import AssignmentRow, DeviceRow
from edge_agent.contract.device_state import DeviceState, SlotState, parse_device_state
from edge_agent.contract.errors import HoldfastError

NOTHING_ASSIGNED = AssignmentRow(0, 0, {})


@dataclass
class Record:
    """A device. heard_s: on the coordinator's own clock. entitled: digests that it may fetch. lost_reports: a count."""

    row: DeviceRow
    heard_s: float
    state: DeviceState | None = None
    assigned: AssignmentRow = NOTHING_ASSIGNED
    entitled: set[str] = field(default_factory=set)
    lost_reports: int = 0
    _seen: tuple[object, ...] = ()
    _device: Device | None = None

    @classmethod
    def restored(cls, row: DeviceRow, heard_s: float, lost_reports: int) -> Record:
        """As it was kept; a state document that this version cannot read is forgotten, the device tells it again."""
        try:
            state = None if row.state is None else parse_device_state(row.state)
        except HoldfastError:
            state = None
        return cls(row, heard_s, state, lost_reports=lost_reports)

    def device(self, epoch: int) -> Device:
        """As planning sees it; the same object while nothing has changed, for there are many."""
        seen = (self.row, self.state, self.assigned, self.heard_s, epoch)
        if self._device is None or any(a is not b for a, b in zip(seen, self._seen, strict=True)):
            self._seen, self._device = seen, self._made(epoch)
        return self._device

    def _made(self, epoch: int) -> Device:
        slots = {} if self.state is None else {name: _slot(slot) for name, slot in self.state.models.items()}
        return Device(
            device_id=self.row.device_id,
            connected=self.row.connected,
            heard_s=self.heard_s,
            models=frozenset(self.row.models),
            slots=slots,
            epoch=self.assigned.epoch,
            revision=self.assigned.revision,
            told_revision=self.row.told_revision if self.row.told_epoch == epoch else 0,
            assigned=self.assigned.models,
        )

    def generations(self) -> dict[str, int]:
        """The generation of each slot, as the device took it."""
        if self.state is None:
            return {}
        return {name: slot.assigned.generation for name, slot in self.state.models.items() if slot.assigned}

    def told(self) -> Told:
        """What it says to have had."""
        return Told(self.row.told_epoch, self.row.told_revision, self.generations())

    def given(self, epoch: int, generations: dict[str, int], *, agreed: bool) -> Given:
        """What it was given. generations: the highest of each model. agreed: its numbers were in line with ours lately,
        so that of a slot that is not in the assignment that it has taken it tells what an earlier coordinator gave.
        """
        has_it = self.row.told_revision == self.assigned.revision
        compared = (self.assigned.models if has_it else {}) if agreed else self.generations()
        return Given(epoch, self.assigned.revision, {model: generations.get(model, 0) for model in compared})


def _slot(slot: SlotState) -> Slot:
    return Slot(
        active=slot.active.digest if slot.active and slot.serving else None,
        candidate=slot.candidate.digest if slot.candidate else None,
        phase=slot.candidate.phase if slot.candidate else "",
        generation=slot.assigned.generation if slot.assigned else 0,
        held=slot.assigned.held if slot.assigned else False,
        turned_away=tuple(Turned(t.digest, t.reason, t.blocked) for t in slot.turned_away),
    )
