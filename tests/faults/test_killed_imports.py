"""kill -9 of the runtime at random moments of an import: afterwards a verified snapshot serves, and the import ends or
is refused.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge_agent.client import import_bundle, wait_until_settled
from edge_agent.config import load_config
from edge_agent.contract.errors import HoldfastError
from edge_agent.offer.bundle_reader import BundleReader
from tests.faults.checks import check_answers, wait_recovered
from tests.faults.conftest import cases
from tests.harness.agent import Agent
from tests.harness.releases import Release, Releases

KILLS = cases(50, 2_000)


class Importer(threading.Thread):
    """Offers one bundle as `edge-agent import` does; `outcome` is what the command would say."""

    def __init__(self, config_file: Path, release: Release) -> None:
        super().__init__(daemon=True)
        self._config_file = config_file
        self._release = release
        self.outcome = "under way"

    def run(self) -> None:
        config = load_config(self._config_file)
        try:
            with BundleReader(self._release.bundle) as bundle:
                import_bundle(config, bundle, model="tiny", version=self._release.version, retry=False, wait_s=30.0,
                              progress=lambda done, total: None)  # fmt: skip
                document = wait_until_settled(config, "tiny", self._release.digest, 30.0)
            self.outcome = "serves" if document["active"]["digest"] == self._release.digest else "stored"
        except HoldfastError as error:
            self.outcome = f"refused: {error}"


def test_kill_9_at_random_moments_of_an_import(new_agent: Callable[..., Agent], releases: Releases) -> None:
    chance = random.Random(4)
    agent = new_agent(limits={"orphan_s": 30.0}).start_and_wait()
    span_s = 0.25
    outcomes: dict[str, int] = {}
    for number in range(KILLS):
        release = releases.publish(f"2.{number}.0", proven=False, hidden=40_000)
        importer = Importer(agent.config_file, release)
        started = time.monotonic()
        moment_s = chance.random() * span_s
        importer.start()
        importer.join(moment_s)
        agent.kill_runtime()
        story = (number, f"killed after {time.monotonic() - started:.3f} s")
        check_answers(agent, releases, (story, "without a runtime"), rows=1)
        agent.start()
        wait_recovered(agent, story)
        importer.join(60)
        assert importer.outcome == "serves" or importer.outcome.startswith("refused"), (story, importer.outcome)
        assert "not settled" not in importer.outcome, (story, "it neither ended nor was refused")
        version = check_answers(agent, releases, story)
        if importer.outcome == "serves":
            assert version == release.version, story
        outcomes[importer.outcome[:20]] = outcomes.get(importer.outcome[:20], 0) + 1
    print(f"{KILLS} kills: {outcomes}")
    assert outcomes.get("serves", 0) > KILLS // 2, outcomes
