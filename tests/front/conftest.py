"""One device for all tests that only ask it: its model misbehaves on request. What is asked is the tests'."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.front.asking import BODY_BYTES_MAX, QUEUE_MAX
from tests.harness.agent import Agent, ShortFolder
from tests.harness.releases import Release, Releases

# A request whose first number is the amount makes the model do this.
RAISE, SLOW, NAN = 333.0, 40.0, 444.0
FAULTS = tuple(
    {"op": "fault", "when": "poison", "kind": kind, "amount": amount}
    for kind, amount in (("raise", RAISE), ("slow", SLOW), ("nan", NAN))
)


@dataclass
class Device:
    """A serving agent and what its only model answers."""

    agent: Agent
    release: Release
    port: int


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """Serves tiny 2.0.0 until the end of the run; a publisher of its own, so that no other test is in its way."""
    releases = Releases(tmp_path_factory.mktemp("releases"))
    release = releases.publish("2.0.0", first_layers=FAULTS)
    with ShortFolder() as folder:
        factory = str(folder / "factory")
        serving = {"queue_max": QUEUE_MAX, "body_bytes_max": BODY_BYTES_MAX, "deadline_s": 1.0, "hold_s": 1.0}
        models = {"tiny": {"factory": factory, "probation_s": 0.0}}
        with Agent(folder / "d", releases.root_file, models=models, serving=serving) as agent:
            done = agent.cli("factory", str(release.bundle), "--out", factory)
            assert done.returncode == 0, done.stderr
            agent.forked = True
            agent.start_and_wait()
            yield Device(agent, release, agent.port())
