"""What counted answers say of a candidate."""

from __future__ import annotations

import random

import pytest

from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import LATENCY_BUCKETS, LATENCY_FIRST_S, Tally, counted, latency_bucket
from edge_agent.core.judgement import (
    Stage,
    Watch,
    fault_at_once,
    fault_at_the_end,
    is_enough,
    replay_interval_s,
    stage_of,
)
from edge_agent.core.rules import Rules

RULES = Rules(
    error_percent_max=5.0, agreement_percent_min=80.0, latency_ratio_max=2.0, latency_percentile=95.0, drift_max=0.2
)
STAGE = Stage(lasts_s=10.0, answers_min=100)


def watch(candidate: Tally, baseline: Tally | None = None) -> Watch:
    return Watch(0.0, candidate, baseline or Tally())


def at_once(candidate: Tally, baseline: Tally | None = None) -> Reason | None:
    fault = fault_at_once(RULES, STAGE, watch(candidate, baseline))
    return fault.reason if fault else None


def at_the_end(candidate: Tally, baseline: Tally) -> Reason | None:
    fault = fault_at_the_end(RULES, watch(candidate, baseline))
    return fault.reason if fault else None


@pytest.mark.parametrize(
    ("tally", "reason"),
    [
        (Tally(answers=10, errors=5), None),  # 5 of the 100 that are asked for
        (Tally(answers=10, errors=6), Reason.ERROR_RATE),
        (Tally(answers=1000, errors=50), None),
        (Tally(answers=1000, errors=51), Reason.ERROR_RATE),
        (Tally(answers=1, non_finite=1), Reason.NON_FINITE),
        (Tally(compared=50, agreed=30), None),
        (Tally(compared=50, agreed=29), Reason.DISAGREEMENT),
        (Tally(synthetic=50), None),
    ],
)
def test_what_need_not_be_waited_for(tally: Tally, reason: Reason | None) -> None:
    assert at_once(tally) is reason


def test_requests_that_the_active_snapshot_cannot_answer_either_speak_against_nobody() -> None:
    assert at_once(Tally(answers=200, errors=100), Tally(answers=200, errors=110)) is None
    assert at_once(Tally(answers=5, non_finite=3), Tally(answers=5, non_finite=3)) is None


def latencies(milliseconds: float, count: int) -> Tally:
    return Tally(answers=count, latencies=counted(latency_bucket(milliseconds / 1000), count))


def test_a_slower_candidate_is_told_from_a_busy_machine() -> None:
    assert at_the_end(latencies(100, 50), latencies(30, 50)) is Reason.LATENCY
    assert at_the_end(latencies(50, 50), latencies(30, 50)) is None
    assert at_the_end(latencies(6, 50), latencies(1, 50)) is None, "within the slack"
    assert at_the_end(latencies(100, 10), latencies(1, 50)) is None, "too few answers to say"


def test_a_slow_tail_counts_only_beyond_the_percentile() -> None:
    mostly = latencies(10, 96).plus(latencies(5000, 4))
    often = latencies(10, 90).plus(latencies(5000, 10))
    assert at_the_end(mostly, latencies(10, 100)) is None
    assert at_the_end(often, latencies(10, 100)) is Reason.LATENCY


def decided(chance: random.Random, weights: list[float], count: int) -> Tally:
    total = Tally()
    for bucket in chance.choices(range(len(weights)), weights, k=count):
        total = total.plus(Tally(answers=1, decisions=counted(bucket)))
    return total


def test_drift_is_told_from_chance() -> None:
    chance = random.Random(5)
    even, skewed = [1.0] * 10, [10.0] + [1.0] * 9
    for count in (50, 200, 1000):
        assert at_the_end(decided(chance, even, count), decided(chance, even, count)) is None
    assert at_the_end(decided(chance, skewed, 50), decided(chance, even, 50)) is None, "too few answers to say"
    assert at_the_end(decided(chance, skewed, 2000), decided(chance, even, 2000)) is Reason.DRIFT


def test_enough_is_time_and_answers_whatever_asked_for_them() -> None:
    half = Tally(answers=30, compared=20)
    assert not is_enough(STAGE, Watch(0.0, half), 10.0)
    assert not is_enough(STAGE, Watch(0.0, half.plus(Tally(synthetic=50))), 9.9)
    assert is_enough(STAGE, Watch(0.0, half.plus(Tally(synthetic=50))), 10.0)


def test_a_quiet_device_is_asked_for_golden_vectors_until_there_are_enough_answers() -> None:
    interval_s = replay_interval_s(STAGE, Watch(0.0))
    assert interval_s is not None and STAGE.lasts_s / interval_s >= STAGE.answers_min
    assert replay_interval_s(STAGE, Watch(0.0, Tally(answers=100))) is None
    assert replay_interval_s(Stage(0.0, 0), Watch(0.0)) is None


def test_stages_are_the_rules_in_order() -> None:
    rules = Rules(shadow_s=1.0, share_step_s=2.0, probation_s=3.0)
    assert [stage_of(rules, percent).lasts_s for percent in (0, 10, None)] == [1.0, 2.0, 3.0]


def test_latency_buckets_are_ordered_and_bounded() -> None:
    buckets = [latency_bucket(LATENCY_FIRST_S * 1.1**step) for step in range(200)]
    assert buckets == sorted(buckets) and buckets[0] == 0 and buckets[-1] == LATENCY_BUCKETS - 1
    assert latency_bucket(0.0) == 0
    told = Tally(latencies=counted(latency_bucket(0.010))).latency_s(50)
    assert told is not None and 0.010 <= told <= 0.012
    assert Tally().latency_s(95) is None
