"""A pytest plug-in: how fast seeds were simulated, printed after the tests. What they show is in tests/simulation."""

from __future__ import annotations

import pytest


class SimulationReport:
    """Adds up what each test of seeds says of itself, from whatever worker."""

    def __init__(self) -> None:
        self._seeds, self._device_s, self._took_s = 0, 0.0, 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The call of one test is over."""
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "simulated":
                seeds, device_s, took_s = value  # type: ignore[misc]
                self._seeds += seeds
                self._device_s += device_s
                self._took_s += took_s

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line, if there was anything."""
        if self._seeds:
            terminalreporter.section("simulation")
            days = self._device_s / 86400
            terminalreporter.write_line(
                f"{self._seeds} seeds, {days:.1f} device-days; each process simulates "
                f"{self._seeds / self._took_s:.1f} seeds and {days / self._took_s:.2f} device-days per second"
            )


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest when the plug-in is loaded."""
    config.pluginmanager.register(SimulationReport(), "holdfast-simulation")
