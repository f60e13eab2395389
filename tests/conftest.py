"""What every test may use. Fixtures of one room live in that room's folder."""

from __future__ import annotations

pytest_plugins = ["tests.report_families", "tests.harness.fixtures"]
