"""Taking the coordinator's assignment: believed by its signature, for this device, not older than the last; then put to
the core, slot by slot. What follows from it is decided there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from edge_agent.contract.assignment import Assignment, parse_assignment
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.envelope import SignedKind
from edge_agent.contract.errors import HoldfastError, Rejected
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.assignment import Want, wants
from edge_agent.runtime.authority import Authority
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.marks import AssignmentMark, Marks
from edge_agent.trust.coordinator import open_envelope

log = structlog.get_logger()


class AssignmentDesk:
    """One assignment at a time."""

    def __init__(
        self,
        device_id: str,
        authority: Authority,
        marks: Marks,
        executor: Executor,
        is_admitted: Callable[[str], bool],
    ) -> None:
        self._device_id = device_id
        self._authority = authority
        self._marks = marks
        self._executor = executor
        self._is_admitted = is_admitted
        self._one_at_a_time = asyncio.Lock()

    @property
    def taken(self) -> AssignmentMark:
        """The last assignment that was taken."""
        return self._marks.seen.assignment

    def wants(self) -> tuple[Want, ...]:
        """What may be offered without an operator's hand."""
        return tuple(want for state in self._executor.states() for want in wants(state))

    async def take(self, raw: bytes) -> AssignmentMark:
        """Verify, remember, then decide; again is harmless.

        Raises Rejected: too_large, malformed, signature, wrong_device, stale_assignment. Unavailable: nobody was named
        who may assign; or the disk takes no marks and the assignment is about more than what is here already.
        """
        coordinator = self._authority.require()
        payload = open_envelope(raw, SignedKind.ASSIGNMENT, coordinator)
        assignment = parse_assignment(payload)
        if assignment.device_id != self._device_id:
            raise Rejected(f"this assignment is for {assignment.device_id}", reason=Reason.WRONG_DEVICE)
        if assignment.epoch != coordinator.epoch:
            raise Rejected(
                f"this assignment is of epoch {assignment.epoch}, the coordinator's is {coordinator.epoch}",
                reason=Reason.STALE_ASSIGNMENT,
            )
        mark = AssignmentMark(assignment.epoch, assignment.revision, sha256_hex(payload))
        async with self._one_at_a_time:
            self._check_not_older(mark)
            again = mark == self.taken
            await self._remember(mark, assignment)
            await self._decide(assignment)
        if not again:  # a coordinator that connects again repeats them all, and a flood is no news
            generations = {model: wish.generation for model, wish in assignment.models.items()}
            log.info("assignment_taken", epoch=mark.epoch, revision=mark.revision, generations=generations)
        return mark

    def _check_not_older(self, mark: AssignmentMark) -> None:
        taken = self.taken
        if (mark.epoch, mark.revision) < (taken.epoch, taken.revision):
            raise Rejected(
                f"revision {mark.epoch}.{mark.revision} is older than {taken.epoch}.{taken.revision}, which was taken",
                reason=Reason.STALE_ASSIGNMENT,
            )
        if (mark.epoch, mark.revision) == (taken.epoch, taken.revision) and mark.digest != taken.digest:
            raise Rejected(
                f"revision {mark.epoch}.{mark.revision} was taken with other content", reason=Reason.STALE_ASSIGNMENT
            )

    async def _remember(self, mark: AssignmentMark, assignment: Assignment) -> None:
        """A disk that takes no marks stops new content, and never the way back to what is here."""
        try:
            await self._marks.remember_assignment(mark)
        except HoldfastError as error:
            if not all(self._is_admitted(wish.digest) for wish in assignment.models.values()):
                raise
            log.warning("assignment_mark_not_saved", detail=error.message, revision=mark.revision)

    async def _decide(self, assignment: Assignment) -> None:
        slots = {state.model for state in self._executor.states()}
        for model, wish in assignment.models.items():
            if model not in slots:
                log.warning("assignment_for_no_slot", model=model, snapshot=wish.digest,
                            next_step=Reason.WRONG_SLOT.next_step)  # fmt: skip
                continue
            await self._executor.post(
                ev.AssignmentTaken(
                    model,
                    wish.digest,
                    wish.version,
                    assignment.epoch,
                    wish.generation,
                    wish.policy,
                )
            )
