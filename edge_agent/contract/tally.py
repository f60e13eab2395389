"""What was seen of one snapshot's answers while it is watched: counts that can be added up. What they lead to is
decided in `core`; `front` counts live requests, `runtime` golden vectors.
"""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta, Struct

LATENCY_FIRST_S = 50e-6  # the upper end of the first bucket: quicker answers tell nothing apart
LATENCY_BUCKETS = 80  # each reaches 2 ** (1 / 4) as far as the one before: up to 44 s, told apart to 19 %
DECISION_BUCKETS = 32  # classes beyond share buckets, which hides a drift between those alone

Counts = Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=LATENCY_BUCKETS)]
Number = Annotated[int, Meta(ge=0)]


class Tally(Struct, frozen=True):
    """answers: to live requests, errors among them (a copy that fails is both, else nobody would judge it).
    non_finite: answers with NaN or infinity. compared: copies of live requests (shadow) whose answer was compared with
    the active snapshot's, agreed among them. synthetic: golden vectors replayed. latencies: answers and golden vectors
    by `latency_bucket`. decisions: live answers and copies by what they decided (`front.comparison`).
    """

    answers: Number = 0
    errors: Number = 0
    non_finite: Number = 0
    compared: Number = 0
    agreed: Number = 0
    synthetic: Number = 0
    latencies: Counts = ()
    decisions: Counts = ()

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.answers + other.answers,
            self.errors + other.errors,
            self.non_finite + other.non_finite,
            self.compared + other.compared,
            self.agreed + other.agreed,
            self.synthetic + other.synthetic,
            _sums(self.latencies, other.latencies),
            _sums(self.decisions, other.decisions),
        )

    def latency_s(self, percentile: float) -> float | None:
        """The upper end of the bucket in which this percentile (0 to 100) lies, seconds; None without any answer."""
        wanted = math.ceil(sum(self.latencies) * percentile / 100)
        seen = 0
        for bucket, count in enumerate(self.latencies):
            seen += count
            if count and seen >= wanted:
                return LATENCY_FIRST_S * 2 ** (bucket / 4)
        return None


def latency_bucket(latency_s: float) -> int:
    """The bucket of a latency: 0 up to LATENCY_FIRST_S, then four to a doubling, the last one without an end."""
    if latency_s <= LATENCY_FIRST_S:
        return 0
    return min(LATENCY_BUCKETS - 1, math.ceil(4 * math.log2(latency_s / LATENCY_FIRST_S)))


def counted(bucket: int, count: int = 1) -> tuple[int, ...]:
    """Counts with so many in this bucket and none elsewhere."""
    return (*(0,) * bucket, count)


def _sums(some: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    longer, shorter = (some, others) if len(some) >= len(others) else (others, some)
    return tuple(a + b for a, b in zip(longer, (*shorter, *(0,) * (len(longer) - len(shorter))), strict=True))
