"""What is seen of watched snapshots' answers, counted per snapshot and told to the runtime as sums. Routes and sockets
are elsewhere; imported only once something is watched, since numpy takes its time and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from edge_agent.contract.tally import DECISION_BUCKETS, LATENCY_BUCKETS, Tally, latency_bucket
from edge_agent.front.comparison import are_finite, decide_alike, decision_bucket
from edge_agent.front.protocol import OutputTensor

Outputs = tuple[OutputTensor, ...]


class Counts:
    """Sums since they were told last."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.answers = self.errors = self.non_finite = self.compared = self.agreed = 0
        self._latencies = [0] * LATENCY_BUCKETS
        self._decisions = [0] * DECISION_BUCKETS

    def note(self, outputs: Outputs, took_s: float) -> bool:
        """What an answer and a compared copy have in common; whether all its numbers are finite."""
        finite = are_finite(outputs)
        self.non_finite += not finite
        self._latencies[latency_bucket(took_s)] += 1
        bucket = decision_bucket(outputs)
        if bucket is not None:
            self._decisions[bucket] += 1
        return finite

    def tally(self) -> Tally:
        """The sums, without the empty buckets at the end."""
        return Tally(
            answers=self.answers,
            errors=self.errors,
            non_finite=self.non_finite,
            compared=self.compared,
            agreed=self.agreed,
            latencies=_trimmed(self._latencies),
            decisions=_trimmed(self._decisions),
        )


class Observer:
    """The counts of all watched snapshots; an answer of any other one is not looked at."""

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}

    def watch(self, models: Mapping[str, str]) -> None:
        """Watch exactly these snapshots, digest -> model. Sums of the others are forgotten."""
        self._counts = {digest: self._counts.get(digest) or Counts(model) for digest, model in models.items()}

    def answered(self, digest: str, outputs: Outputs, took_s: float, *, look: bool = False) -> bool:
        """A live request was answered after `took_s` of the worker's time; whether all numbers are finite (True where
        nothing is watched). look: also of a candidate that was sent back meanwhile, and is not watched any more.
        """
        counts = self._counts.get(digest)
        if counts is None:
            return are_finite(outputs) if look else True
        counts.answers += 1
        return counts.note(outputs, took_s)

    def failed(self, digest: str | None) -> None:
        """The model's fault: it raised, hung, or died with a request that nobody else there gets."""
        counts = self._counts.get(digest) if digest else None
        if counts is not None:
            counts.answers += 1
            counts.errors += 1

    def compared(self, digest: str, outputs: Outputs, active: Outputs, took_s: float) -> bool:
        """A copy was answered; whether the candidate decides as the active snapshot did."""
        alike = decide_alike(outputs, active)
        counts = self._counts.get(digest)
        if counts is not None:
            counts.compared += 1
            counts.agreed += alike
            counts.note(outputs, took_s)
        return alike

    def tell(self, tell: Callable[[dict[str, Any]], bool]) -> None:
        """An event for each snapshot of which something was seen; what could not be told waits, and is added to."""
        for digest, counts in self._counts.items():
            tally = counts.tally()
            if tally == Tally():
                continue
            event = {"event": "observed", "model": counts.model, "digest": digest, "tally": msgspec.to_builtins(tally)}
            if tell(event):
                counts.clear()


def _trimmed(counts: list[int]) -> tuple[int, ...]:
    used = max((place for place, count in enumerate(counts) if count), default=-1)
    return tuple(counts[: used + 1])
