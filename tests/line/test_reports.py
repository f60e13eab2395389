"""Every fact of a device reaches the coordinator's database once, whatever dies on the way; whose fault that is, and
what each part does about it, is tested in tests/cloud, tests/sync and tests/runtime.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

from tests.harness.agent import wait_until
from tests.harness.fleet import Fleet
from tests.line import books, wishes

SEED = 20
REPORTS_OF_A_ROLLOUT = 18  # of two devices together, at least


def kill_coordinator(fleet: Fleet) -> None:
    fleet.coordinator.kill()
    fleet.coordinator.start()


def kill_broker(fleet: Fleet) -> None:
    fleet.broker.kill()
    fleet.broker.start()


def kill_sync(fleet: Fleet) -> None:
    os.kill(fleet.agents[0].status()["processes"]["sync"], signal.SIGKILL)


def kill_runtime(fleet: Fleet) -> None:
    fleet.agents[1].kill_runtime()
    fleet.agents[1].start()


VICTIMS: tuple[Callable[[Fleet], None], ...] = (
    kill_coordinator, kill_sync, kill_coordinator, kill_runtime, kill_broker, kill_coordinator,
)  # fmt: skip


def test_no_report_is_lost_or_counts_twice_whatever_is_killed_during_rollouts(fleet: Fleet) -> None:
    chance = random.Random(SEED)
    versions = [f"2.{number}.0" for number in range(len(VICTIMS))]  # each is fetched and proven: many facts
    for version in versions:
        fleet.releases.publish(version, proven=False)
    fleet.fleet_json("snapshot", "publish", "--all")
    for version, kill in zip(versions, VICTIMS, strict=True):
        before = books.count_at_coordinator(fleet)
        rollout = wishes.start(fleet, version)
        point = before + chance.randrange(REPORTS_OF_A_ROLLOUT)
        wait_until(lambda point=point: books.count_at_coordinator(fleet) >= point, f"{kill.__name__} at {point}")
        kill(fleet)
        wishes.wait_state(fleet, rollout, "done")
    for agent in fleet.agents:
        told = books.check_agree(fleet, agent)
        kept = [(kind, model, digest, version) for kind, model, digest, version, *_ in told.facts.values()]
        assert kept == books.journal(agent), f"{agent.folder.name}: its journal has another story"
        assert fleet.devices()[agent.folder.name]["lost_reports"] == 0
