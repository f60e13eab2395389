"""Fixtures that several families share; loaded by conftest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.agent import Agent, ShortFolder
from tests.harness.releases import Releases


@pytest.fixture(scope="session")
def releases() -> Iterator[Releases]:
    """tiny 0.9.0 (factory), 1.0.0 and 1.1.0."""
    with tempfile.TemporaryDirectory(prefix="hf-rel-") as folder:
        made = Releases(Path(folder))
        for version in ("0.9.0", "1.0.0", "1.1.0"):
            made.publish(version)
        yield made


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path: unix socket names are bounded."""
    with ShortFolder() as folder:
        yield folder


NewAgent = Callable[..., Agent]


@pytest.fixture
def new_agent(releases: Releases, short_folder: Path) -> Iterator[NewAgent]:
    """Makes agents for the tiny model (not started); all of them are ended."""
    with agents_of(releases, short_folder) as make:
        yield make


@contextmanager
def agents_of(releases: Releases, folder: Path) -> Iterator[NewAgent]:
    """A maker of agents for the model of these releases; whatever it made is ended."""
    made: list[Agent] = []

    def make(
        name: str = "d", *, factory: str | None = "0.9.0", model: dict[str, Any] | None = None, **sections: Any
    ) -> Agent:
        settings: dict[str, Any] = {"probation_s": 0.0, **(model or {})}
        if factory is not None:
            settings["factory"] = str(folder / f"{name}.factory")
        agent = Agent(
            folder / name, releases.root_file, models={releases.model: settings}, engine=releases.engine, **sections
        )
        agent.forked = True
        made.append(agent)
        if factory is not None:
            done = agent.cli("factory", str(releases.all[factory].bundle), "--out", settings["factory"])
            assert done.returncode == 0, done.stderr
        return agent

    try:
        yield make
    finally:
        for agent in made:
            agent.stop()
