"""Carrying out plans while devices go on talking: the planner with its real memory and database, and no broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from cloud_sync import limits
from cloud_sync.coordinator.memory import Memory
from cloud_sync.coordinator.planner import Planner
from cloud_sync.core.fleet import Kind, Rollout, Strategy
from cloud_sync.repository.catalog import Catalog
from cloud_sync.signing import Signer
from cloud_sync.store.database import Database
from edge_agent.contract.envelope import CoordinatorKey

NEW_DEVICES = 3 * limits.PLAN_ROUNDS_MAX


class Enrolling:
    """Where assignments go out; each time one does, one more device has said its first hello meanwhile."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.told: list[str] = []

    async def assignments(self, device_ids: Sequence[str]) -> None:
        """Note who was told, and let the next one come."""
        self.told += device_ids
        if len(self.told) < NEW_DEVICES:
            appear(self._memory, len(self.told))


def appear(memory: Memory, number: int) -> None:
    """A device that nobody knew says hello."""
    record = memory.record(f"new-{number}")
    assert record is not None
    memory.heard(record, models=("tiny",), connected=True)


def rollout(number: int) -> Rollout:
    """Of `tiny`, to everybody."""
    return Rollout(f"r{number}", number, "tiny", "1.0.0", "a" * 64, 1, 0, Strategy.ALL, Kind.ROLLOUT)


def test_devices_that_come_one_after_the_other_are_all_planned_and_end_nothing(tmp_path: Path) -> None:
    async def enrol() -> list[str]:
        signer = Signer.generate()
        database = Database(tmp_path / "coordinator.db")
        memory = Memory(database, signer, catalog=Catalog(None, {}, CoordinatorKey(1, signer.public_key), None))
        planner = Planner(memory)
        planner.outbound = outbound = Enrolling(memory)
        appear(memory, 0)
        running = asyncio.create_task(planner.run())
        try:
            await planner.add(rollout)
            async with asyncio.timeout(20.0):
                while len(outbound.told) < NEW_DEVICES and not running.done():
                    await asyncio.wait((running,), timeout=0.05)
            assert not running.done(), running.exception()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await database.close()
        return outbound.told

    assert asyncio.run(enrol()) == [f"new-{number}" for number in range(NEW_DEVICES)]
