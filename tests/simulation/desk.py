"""Offers and assignments at one device, by the rules of `OfferDesk`, `AssignmentDesk` and `Marks`; no signatures."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge_agent.contract import limits
from edge_agent.contract.errors import Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.state import Phase
from tests.simulation.faults import MODEL, Release
from tests.simulation.store import Stored

if TYPE_CHECKING:
    from cloud_sync.core.fleet import Target
    from tests.simulation.device import Device


class Desk:
    """One offer at a time. taken: epoch and revision of the last assignment."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._chance = device.chance.of("desk")
        self.offering: asyncio.Task[Any] | None = None
        self.taken = (0, 0)

    def begin(self) -> None:
        """A runtime starts: marks are read back. An offer that nobody goes on with is forgotten after a while."""
        self.taken = self._device.disk.mark
        candidate = self._device.disk.state.candidate if self._device.disk.state else None
        if candidate is not None and candidate.phase is Phase.FETCHING:
            self._device.later(limits.OFFER_KEPT_S, self._abandon, candidate.digest)

    # ---- assignments

    def take(self, epoch: int, revision: int, target: Target) -> None:
        """Not older than the last one; remembered first, unless it is about nothing new; then decided."""
        device = self._device
        mark = (epoch, revision)
        if not device.is_up or mark < self.taken:
            return
        self.taken = mark
        if device.disk.mark != mark:
            if device.disk.hangs or device.disk.refuses is not None:
                if target.digest not in device.disk.snapshots:
                    return
            else:
                device.disk.mark = mark
        device.post(ev.AssignmentTaken(MODEL, target.digest, target.version, epoch, target.generation, target.policy))

    # ---- offers

    def offer(self, release: Release, *, retry: bool, by_line: bool) -> None:
        """Begin one, unless another one is under way."""
        if self.offering is None or self.offering.done():
            self.offering = asyncio.get_running_loop().create_task(self._offer(release, retry, by_line))

    async def _offer(self, release: Release, retry: bool, by_line: bool) -> None:
        try:
            await self._through(release, retry, by_line)
        except Unavailable as error:
            if error.reason in (Reason.DISK_FULL, Reason.READ_ONLY):
                self._device.executor.note_storage(error.reason)
            self._device.later(limits.OFFER_KEPT_S, self._abandon, release.digest)

    async def _through(self, release: Release, retry: bool, by_line: bool) -> None:
        device, disk = self._device, self._device.disk
        minimum = device.world.minimum
        if device.executor.state(MODEL).minimum != minimum:
            await device.executor.post(ev.MinimumStated(MODEL, minimum))
        stored = disk.snapshots.get(release.digest)
        known = replace(release.known, factory=stored is not None and stored.factory)
        begun = ev.OfferBegun(MODEL, known, complete=False, retry=retry)
        refusal = device.executor.would_refuse(begun)
        if refusal is not None:
            if refusal.reason is Reason.INTERFACE_CHANGE:
                refused = ev.OfferRefused(MODEL, known.digest, known.version, refusal.reason, refusal.text)
                await device.executor.post(refused)
            return
        disk.check()
        complete = self._take_in(release, stored)
        step = await device.executor.post(replace(begun, complete=complete))
        if step.refusal is not None:
            return
        if not complete:
            await asyncio.sleep(self._chance.between(100, 4000))
            disk.check()
            if by_line and device.link.parted:
                device.later(limits.OFFER_KEPT_S, self._abandon, release.digest)
                return
        await self._end_offer(release)

    def _take_in(self, release: Release, stored: Stored | None) -> bool:
        """The evidence is stored anew, chunks that rotted are found; whether every chunk is here."""
        if stored is not None and stored.rotten:
            stored.rotten, stored.missing = False, True
        if stored is None or stored.missing:
            self._device.disk.offers.add(release.digest)
            return False
        stored.evidence_rotten = False
        return True

    async def _end_offer(self, release: Release) -> None:
        """Every chunk is here: it becomes visible, then the core is told."""
        device, disk = self._device, self._device.disk
        before = disk.snapshots.get(release.digest)
        state = device.executor.state(MODEL)
        known = state.find(release.digest)
        if before is not None:
            before.missing = before.rotten = before.evidence_rotten = False
        else:
            disk.snapshots[release.digest] = Stored(release)
        disk.offers.discard(release.digest)
        if state.candidate and state.candidate.digest == release.digest:
            await device.executor.post(ev.OfferCompleted(MODEL, release.digest))
        elif known and known.damaged:
            await device.executor.post(ev.Repaired(MODEL, release.digest))

    def _abandon(self, digest: str) -> None:
        if self.offering is None or self.offering.done():
            self._device.post(ev.OfferAbandoned(MODEL, digest, Reason.OFFER_ABANDONED))
