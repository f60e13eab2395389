"""Whoever offers bytes is stopped or killed at every step while a cold fallback runs: the fallback does not wait for
it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from edge_agent.client import AdminClient
from edge_agent.config import load_config
from edge_agent.contract.evidence import encode_evidence
from edge_agent.offer.bundle_reader import BundleReader
from tests.faults.checks import check_answers
from tests.harness.agent import Agent, wait_until
from tests.harness.damage import flip_parameters, is_damaged
from tests.harness.processes import is_stopped
from tests.harness.releases import Releases

STEPS = ("connected", "evidence", "manifest", "begun", "first chunk", "all chunks", "ended")


def offer_up_to(config_file: Path, bundle_path: Path, step: str, how: str) -> None:
    """In a process of its own: offer, and stop or die right after this step."""

    def reached(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)

    with BundleReader(bundle_path) as bundle, AdminClient(load_config(config_file)) as client:
        reached("connected")
        client.ask("offer_piece", encode_evidence(bundle.evidence), document="evidence")
        reached("evidence")
        client.ask("offer_piece", bundle.manifest_raw, document="manifest")
        reached("manifest")
        _, hashes = client.ask("offer_begin", retry=False, model="tiny", version="x")
        reached("begun")
        for at in range(0, len(hashes), 32):
            sha256 = hashes[at : at + 32].hex()
            client.ask("offer_chunk", bundle.chunk(sha256), sha256=sha256)
            reached("first chunk")
        reached("all chunks")
        client.ask("offer_end")
        reached("ended")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_cold_fallback_does_not_wait_for_an_offer(
    new_agent: Callable[..., Agent], releases: Releases, how: str
) -> None:
    agent = new_agent(model={"spare": False}, scrub={"interval_s": 0.1, "chunks_per_s": 1000}).start_and_wait()
    one, two = releases.all["1.0.0"], releases.all["1.1.0"]
    for release in (one, two):
        assert agent.cli("import", str(release.bundle)).returncode == 0
        agent.wait_model("tiny", lambda m: not m["candidate"], "confirmed")
    for number, step in enumerate(STEPS[:-1]):
        offered = releases.publish(f"3.{number}.0-{how}", proven=False, hidden=60_000)
        offerer = multiprocessing.get_context("forkserver").Process(
            target=offer_up_to, args=(agent.config_file, offered.bundle, step, how)
        )
        offerer.start()
        try:
            wait_until(partial(_is_over, offerer, how), f"{how} after {step}")
            flip_parameters(agent.state_dir / "models.db", releases.publisher.repository.folder, two.bundle)
            agent.wait_model("tiny", lambda m: is_damaged(m, two.digest), "damage noticed")
            agent.kill_workers(two.digest)
            assert check_answers(agent, releases, (step, how)) == "1.0.0"
            if how == "stop":
                assert is_stopped(offerer.pid or 0), "the fallback was there while the offer still hung"
        finally:
            offerer.kill()
            offerer.join()
        assert agent.cli("import", str(two.bundle)).returncode == 0
        agent.wait_model("tiny", lambda m: m["serving"] and m["active"]["version"] == "1.1.0", "climbed back")


def _is_over(offerer: BaseProcess, how: str) -> bool:
    return is_stopped(offerer.pid or 0) if how == "stop" else not offerer.is_alive()
