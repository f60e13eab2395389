"""`python -m tests.simulation SEED`: the story of a seed, its digest and its verdict. Exit code: 0 all held, 1 an
invariant is broken, 3 the goal was not reached.
"""

from __future__ import annotations

import argparse
import sys

from tests.simulation.world import simulate


def main() -> int:
    """Show one seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    seed = parser.parse_args().seed
    verdict = simulate(seed, print)
    print(f"\nseed {seed}: {verdict.steps} lines, {verdict.device_s / 86400:.3f} device-days, digest {verdict.digest}")
    if verdict.broken is None:
        print("verdict: all held, the goal is reached")
        return 0
    print(f"verdict: {verdict.broken} at line {verdict.steps}: {verdict.detail}")
    return 3 if verdict.broken == "liveness" else 1


if __name__ == "__main__":
    sys.exit(main())
