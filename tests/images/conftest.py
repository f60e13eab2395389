"""The releases of the update, its recording, and the figures that are printed after the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.agent import Agent, ShortFolder
from tests.harness.releases import Releases
from tests.images.disk import Call
from tests.images.recording import find_strace, record
from tests.images.update import Plan, plan_as_json

FIGURES = "images"
VERSIONS = {"1.0.0": 1_600, "1.1.0": 400, "1.2.0": 400, "1.3.0": 8}  # hidden units: chunks of eleven pages, three, one
Recorded = tuple[list[Call], Path]  # with the state folder at the end


@pytest.fixture(scope="session")
def update_releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    made = Releases(tmp_path_factory.mktemp("releases"))
    for version, hidden in VERSIONS.items():
        made.publish(version, hidden=hidden, proven=False)
    return made


@pytest.fixture
def record_update(update_releases: Releases) -> Iterator[Callable[..., Recorded]]:
    """Plays and records the update of these releases, whole (three) or short (one)."""
    strace, why = find_strace()
    if strace is None:
        pytest.skip(why)
    with ShortFolder() as folder:

        def recorded(*versions: str, sabotage: str = "") -> Recorded:
            agent = Agent(folder / "d", update_releases.root_file, models={"tiny": {"probation_s": 0.0}})
            (folder / "run").mkdir()
            bundles = {version: str(release.bundle) for version, release in update_releases.all.items()}
            served = tuple(bundles[version] for version in versions)
            words = folder / "words"
            plan = Plan(str(agent.config_file), str(folder / "run"), str(words), served, bundles["1.3.0"], sabotage)
            command = [sys.executable, "-m", "tests.images.update", plan_as_json(plan)]
            return record(strace, command, agent.state_dir, words, folder / "log"), agent.state_dir

        yield recorded


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    figures = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == FIGURES and report.when == "call"
    ]
    if figures:
        terminalreporter.section("crash images")
        for text in figures:
            terminalreporter.write_line(str(text))
