"""Seeds by the thousand as tests: 2,000 in the gate, 100,000 in a soak; in blocks, for one file each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.simulation.world import Verdict, simulate

BLOCKS = 8
SEEDS = 100_000 if os.environ.get("HOLDFAST_SOAK") == "1" else 2_000
SEEDS_A_TEST = 25


def seeds_of_block(block: int) -> Callable[..., None]:
    """A test of this block's seeds; what it measured goes to the summary (`tests.report_simulation`)."""
    size = SEEDS // BLOCKS

    @pytest.mark.parametrize("first", range(block * size, (block + 1) * size, SEEDS_A_TEST))
    def test(first: int, record_property: Callable[[str, object], None]) -> None:
        began_s, device_s = time.perf_counter(), 0.0
        for seed in range(first, first + SEEDS_A_TEST):
            verdict = simulate(seed)
            device_s += verdict.device_s
            assert verdict.broken is None, in_words(verdict)
        record_property("simulated", (SEEDS_A_TEST, device_s, time.perf_counter() - began_s))

    return test


def in_words(verdict: Verdict) -> str:
    """What is needed to look at it: the invariant, the step, the last lines, the command."""
    lines = "\n".join(verdict.lines)
    return (
        f"seed {verdict.seed} breaks {verdict.broken} at line {verdict.steps}: {verdict.detail}\n{lines}\n"
        f"see it all: python -m tests.simulation {verdict.seed}"
    )
