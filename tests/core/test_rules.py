"""Policies put together: later words count, and the publisher's minimum holds against all of them."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.policy import Policy
from edge_agent.core.rules import Rules, at_least, rules_of

seconds = st.floats(0, 1000)
policies = st.builds(
    Policy,
    shadow_s=st.none() | seconds,
    share_percents=st.none() | st.lists(st.integers(1, 99), max_size=4).map(tuple),
    share_requests_min=st.none() | st.integers(0, 100),
    probation_s=st.none() | seconds,
    error_percent_max=st.none() | st.floats(0, 100),
    agreement_percent_min=st.none() | st.floats(0, 100),
    unclean_starts_max=st.none() | st.integers(0, 9),
    allow_interface_change=st.none() | st.booleans(),
)


def test_a_policy_has_the_same_values_as_the_rules() -> None:
    assert Policy.__struct_fields__ == tuple(field.name for field in dataclasses.fields(Rules))


def test_what_is_said_later_counts_and_what_nobody_says_has_a_default() -> None:
    rules = rules_of(Policy(shadow_s=1.0, probation_s=2.0), Policy(probation_s=3.0))
    assert (rules.shadow_s, rules.probation_s, rules.share_step_s) == (1.0, 3.0, Rules().share_step_s)


def test_a_trial_can_be_left_out_but_not_against_the_publisher() -> None:
    without = Policy(shadow_s=0.0, share_percents=())
    assert rules_of(without).steps == ()
    assert at_least(rules_of(without), Policy(shadow_s=5.0, share_percents=(50, 10))).steps == (0, 10, 50)


def test_an_interface_change_that_the_publisher_forbids_stays_forbidden() -> None:
    allowed = rules_of(Policy(allow_interface_change=True))
    assert at_least(allowed, Policy()).allow_interface_change
    assert not at_least(allowed, Policy(allow_interface_change=False)).allow_interface_change
    assert not at_least(rules_of(), Policy(allow_interface_change=True)).allow_interface_change


@given(policies, policies)
def test_nothing_is_below_the_minimum_and_nothing_gets_laxer(stated: Policy, minimum: Policy) -> None:
    before = rules_of(stated)
    rules = at_least(before, minimum)
    for name in ("shadow_s", "share_requests_min", "probation_s", "agreement_percent_min"):
        least = getattr(minimum, name)
        assert getattr(rules, name) == max(getattr(before, name), least if least is not None else 0)
    for name in ("error_percent_max", "unclean_starts_max"):
        most = getattr(minimum, name)
        assert getattr(rules, name) == (min(getattr(before, name), most) if most is not None else getattr(before, name))
    assert at_least(rules, minimum) == rules
