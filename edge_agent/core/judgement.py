"""What the counted answers say of a candidate: whether it has to go back, and whether enough was seen; pure. What
follows is `trial`'s and `candidate`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import Tally
from edge_agent.core.rules import Rules

LATENCY_SLACK_S = 0.005  # below this nobody tells a slower model from a busy machine
LATENCY_ANSWERS_MIN = 20  # of either side: fewer make no percentile
DRIFT_ANSWERS_MIN = 200  # of either side: fewer say more of chance than of the models
QUIET_FACTOR = 2  # golden vectors are replayed so much faster than the time asks for, should some of them fail
NOT_BEGUN = math.inf


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen since `since_s` (monotonic): of the candidate, and of what it is compared with.

    NOT_BEGUN: the front has not said yet that it follows; what it still tells of the step before may show a fault.
    """

    since_s: float
    candidate: Tally = field(default_factory=Tally)
    baseline: Tally = field(default_factory=Tally)

    @property
    def has_begun(self) -> bool:
        """Whether its time runs."""
        return self.since_s != NOT_BEGUN

    @property
    def answers(self) -> int:
        """Answers of the candidate, by whatever request."""
        seen = self.candidate
        return seen.answers + seen.compared + seen.synthetic


@dataclass(frozen=True, slots=True)
class Stage:
    """What one part of a trial, or probation, asks for."""

    lasts_s: float
    answers_min: int


def stage_of(rules: Rules, share_percent: int | None) -> Stage:
    """None is probation, 0 the shadow."""
    if share_percent is None:
        return Stage(rules.probation_s, rules.probation_requests_min)
    if share_percent == 0:
        return Stage(rules.shadow_s, rules.shadow_requests_min)
    return Stage(rules.share_step_s, rules.share_requests_min)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a candidate has to go back."""

    reason: Reason
    detail: str


def fault_at_once(rules: Rules, stage: Stage, watch: Watch) -> Fault | None:
    """What need not be waited for. A few errors among few answers count as among the answers that are asked for."""
    seen, baseline = watch.candidate, watch.baseline
    if seen.non_finite and not baseline.non_finite:
        return Fault(Reason.NON_FINITE, f"{seen.non_finite} answers to live requests had NaN or infinity")
    allowed = max(seen.answers, stage.answers_min) * rules.error_percent_max / 100
    if seen.errors > max(allowed, _error_share(baseline) * seen.answers):
        return Fault(Reason.ERROR_RATE, f"{seen.errors} of {seen.answers} live requests failed")
    disagreed = seen.compared - seen.agreed
    if disagreed > max(seen.compared, stage.answers_min) * (100 - rules.agreement_percent_min) / 100:
        return Fault(
            Reason.DISAGREEMENT, f"decided otherwise on {disagreed} of {seen.compared} copies of live requests"
        )
    return None


def fault_at_the_end(rules: Rules, watch: Watch) -> Fault | None:
    """What only a whole stage can tell: latency and drift."""
    return _slow(rules, watch) or _drifted(rules, watch)


def is_enough(stage: Stage, watch: Watch, now_s: float) -> bool:
    """Whether time and answers suffice."""
    return now_s - watch.since_s >= stage.lasts_s and watch.answers >= stage.answers_min


def replay_interval_s(stage: Stage, watch: Watch) -> float | None:
    """How often a golden vector has to be replayed so that a quiet device comes to an end; None: live requests do."""
    if watch.answers >= stage.answers_min:
        return None
    return max(0.01, stage.lasts_s / stage.answers_min / QUIET_FACTOR)


def _error_share(tally: Tally) -> float:
    return tally.errors / tally.answers if tally.answers else 0.0


def _slow(rules: Rules, watch: Watch) -> Fault | None:
    if min(sum(watch.candidate.latencies), sum(watch.baseline.latencies)) < LATENCY_ANSWERS_MIN:
        return None
    mine = watch.candidate.latency_s(rules.latency_percentile)
    other = watch.baseline.latency_s(rules.latency_percentile)
    if mine is None or other is None or mine <= rules.latency_ratio_max * other + LATENCY_SLACK_S:
        return None
    text = (
        f"percentile {rules.latency_percentile:g}: {mine * 1000:.1f} ms, {other * 1000:.1f} ms of the active snapshot"
    )
    return Fault(Reason.LATENCY, text)


def _drifted(rules: Rules, watch: Watch) -> Fault | None:
    """Total variation between the two distributions of decisions, less what chance alone makes of so few answers: two
    samples of one distribution are sqrt(buckets / answers) apart at most, on average (Cauchy and Schwarz).
    """
    mine, other = watch.candidate.decisions, watch.baseline.decisions
    fewest = min(sum(mine), sum(other))
    if fewest < DRIFT_ANSWERS_MIN:
        return None
    longest = max(len(mine), len(other))
    shares = [(count_of(mine, bucket) / sum(mine), count_of(other, bucket) / sum(other)) for bucket in range(longest)]
    distance = sum(abs(a - b) for a, b in shares) / 2
    used = sum(1 for a, b in shares if a or b)
    if distance <= rules.drift_max + math.sqrt(used / fewest):
        return None
    return Fault(Reason.DRIFT, f"its decisions are distributed otherwise: distance {distance:.2f} of {fewest} answers")


def count_of(counts: tuple[int, ...], bucket: int) -> int:
    """The count in this bucket; buckets beyond the last count are empty."""
    return counts[bucket] if bucket < len(counts) else 0
