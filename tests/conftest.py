"""What every test may use. Fixtures of one room live in that room's folder."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.report_families", "tests.report_simulation", "tests.harness.fixtures"]

# No time limits on a machine that others use too; the same examples in each run of the gate, new ones in each soak.
settings.register_profile(
    "gate", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("soak", settings.get_profile("gate"), derandomize=False, max_examples=2_000)
settings.load_profile("soak" if os.environ.get("HOLDFAST_SOAK") == "1" else "gate")
