"""Same seed, same story: in another process, with other hashes, and as the command tells it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.faults import setting_of
from tests.simulation.world import simulate

CROWD = next(seed for seed in range(10_000) if len(setting_of(seed).devices) >= 100)


def told(seed: int, hashes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hashes},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("seed", [1, 7, 63, CROWD])
def test_a_seed_is_the_same_story_in_every_process(seed: int) -> None:
    first, second = told(seed, "1"), told(seed, "4711")
    assert first.stdout == second.stdout
    assert first.returncode == 0, first.stderr
    assert f"digest {simulate(seed).digest}" in first.stdout
    assert "verdict: all held" in first.stdout


def test_seeds_are_different_stories() -> None:
    assert len({simulate(seed).digest for seed in range(10)}) == 10
