"""Facts of children on their way to a decision: bounded, and none is lost in silence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_agent.config import load_config
from edge_agent.contract import limits
from edge_agent.contract.errors import Bug
from edge_agent.core import events as ev
from edge_agent.runtime.app import Runtime
from edge_agent.runtime.claim import Claim
from edge_agent.runtime.tasks import Tasks
from tests.harness.fixtures import NewAgent


def test_a_fact_that_cannot_be_kept_ends_the_runtime(new_agent: NewAgent) -> None:
    """The next one finds out by itself how things are; one that goes on without it would decide on a wrong state."""

    async def story() -> None:
        config = load_config(new_agent(factory=None).config_file)
        runtime = Runtime(config, Claim(Path("/"), []))
        runtime._tasks = Tasks()
        for _ in range(limits.FACTS_WAITING_MAX):
            runtime._post(ev.Woke("tiny"))
        assert not runtime._tasks.failed.done()
        for _ in range(2):
            runtime._post(ev.WorkerDied("tiny", "w", "d" * 64))
        assert runtime._tasks.failed.done()
        with pytest.raises(Bug, match="facts wait for a decision"):
            runtime._tasks.failed.result()

    asyncio.run(story())
