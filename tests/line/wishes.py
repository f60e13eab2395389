"""An operator's wishes, said in this process (`fleet` is a second slower), and how far they have come."""

from __future__ import annotations

from typing import Any

from cloud_sync.client.api import Coordinator as Api
from edge_agent.contract.errors import Unavailable
from tests.harness.agent import wait_until
from tests.harness.fleet import Fleet


def api(fleet: Fleet) -> Api:
    """The coordinator's API; use with `with`."""
    return Api(fleet.coordinator.url, fleet.coordinator.token_file)


def start(fleet: Fleet, version: str, *devices: str) -> dict[str, Any]:
    """Begin a rollout of the fleet's model, to these devices or to all."""
    with api(fleet) as coordinator:
        document = coordinator.start_rollout(fleet.releases.model, version, "all", devices or None).document
    rollout: dict[str, Any] = document["rollout"]
    return rollout


def roll_back(fleet: Fleet, version: str, *devices: str) -> dict[str, Any]:
    """Begin a rollback of the fleet's model, of these devices or of all."""
    with api(fleet) as coordinator:
        document = coordinator.roll_back(fleet.releases.model, version, devices or None).document
    rollout: dict[str, Any] = document["rollout"]
    return rollout


def state(fleet: Fleet, rollout: dict[str, Any]) -> dict[str, Any]:
    """That rollout as it is now; empty while the coordinator does not answer."""
    try:
        with api(fleet) as coordinator:
            return coordinator.rollout(rollout["id"]).document
    except Unavailable:
        return {}


def wait_state(fleet: Fleet, rollout: dict[str, Any], word: str, timeout_s: float = 60.0) -> dict[str, Any]:
    """Return once the rollout is done, or halted, or whatever the word is."""

    def reached() -> dict[str, Any] | None:
        now = state(fleet, rollout)
        return now if now.get("state") == word else None

    def late() -> str:
        now = state(fleet, rollout)
        stuck = [name for name, stage in now.get("devices", {}).items() if stage not in ("done", "offline")]
        logs = "\n".join(fleet.agent(name).log_tail(25) for name in stuck)
        return f"{word}: {now}\n{logs}"

    reached_then: dict[str, Any] = wait_until(reached, late, timeout_s)
    return reached_then


def roll_out(fleet: Fleet, version: str, *devices: str) -> dict[str, Any]:
    """A rollout that has to be done."""
    return wait_state(fleet, start(fleet, version, *devices), "done")
