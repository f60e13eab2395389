"""How big the campaigns are: small in `make test`, the same code with bigger numbers in `make soak`."""

from __future__ import annotations

import os

SOAK = os.environ.get("HOLDFAST_SOAK") == "1"


def cases(in_test: int, in_soak: int) -> int:
    """The number of cases of a campaign."""
    return in_soak if SOAK else in_test
