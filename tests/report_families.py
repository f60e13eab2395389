"""A pytest plug-in: time and number of cases per family, printed after the tests. What is tested is not its business.

A family is a folder under tests/. The time of a fixture counts for the family that asked for it first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Family:
    """What was counted. cases: every test that ran or was skipped; time with fixtures, in seconds."""

    cases: int = 0
    failed: int = 0
    skipped: int = 0
    time_s: float = 0.0


class FamilyReport:
    """Collects the reports of one run and prints them as a table."""

    def __init__(self, tests_folder: str) -> None:
        self.families: dict[str, Family] = {}
        self._prefix = tests_folder + "/"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase (setup, call, teardown) of one test is over."""
        family = self.families.setdefault(family_of(report.nodeid, self._prefix), Family())
        family.time_s += report.duration
        family.cases += report.when == "setup"
        family.failed += report.failed
        family.skipped += report.skipped

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if not self.families:
            return
        terminalreporter.section("families")
        for line in table(self.families):
            terminalreporter.write_line(line)


def family_of(nodeid: str, prefix: str) -> str:
    """The folder under tests/ that a test lies in: "core" for tests/core/test_x.py::test_y."""
    parts = nodeid.split("::", 1)[0].removeprefix(prefix).split("/")
    return parts[0] if len(parts) > 1 else "(tests)"


def table(families: dict[str, Family]) -> Iterable[str]:
    """Lines of the table, slowest family first, total last."""
    total = Family()
    rows = sorted(families.items(), key=lambda row: -row[1].time_s)
    for _, family in rows:
        total.cases += family.cases
        total.failed += family.failed
        total.skipped += family.skipped
        total.time_s += family.time_s
    yield f"{'family':<14}{'cases':>7}{'failed':>8}{'skipped':>9}{'time':>10}"
    for name, family in [*rows, ("total", total)]:
        yield f"{name:<14}{family.cases:>7}{family.failed:>8}{family.skipped:>9}{family.time_s:>8.1f} s"


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest when the plug-in is loaded."""
    here = Path(__file__).parent
    folder = here.relative_to(config.rootpath).as_posix() if here.is_relative_to(config.rootpath) else here.name
    config.pluginmanager.register(FamilyReport(folder), "holdfast-families")
