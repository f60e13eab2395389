"""Signs of a database that is behind its devices, and the numbers above theirs. The whole story is in test_backup."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_sync.core.fleet import Rollout, Strategy
from cloud_sync.core.plan import counting
from cloud_sync.core.restored import Given, Told, ahead, renumbered
from tests.cloud.fleets import NEW, OLD, rollout, rollout_lists

GIVEN = Given(epoch=2, revision=7, generations={"m": 3})


@pytest.mark.parametrize(
    ("told", "sign"),
    [
        (Told(2, 7, {"m": 3}), None),
        (Told(0, 0, {}), None),  # it has taken nothing yet
        (Told(2, 8, {}), "revision 8"),
        (Told(2, 7, {"m": 4}), "generation 4"),
        (Told(2, 7, {"n": 9}), None),  # a slot that is not compared
        (Told(3, 1, {}), "epoch 3"),
        (Told(1, 99, {"m": 99}), None),  # an earlier coordinator's numbers
    ],
)
def test_a_device_is_ahead_by_epoch_revision_or_generation(told: Told, sign: str | None) -> None:
    said = ahead(told, GIVEN)
    assert (said is None) if sign is None else sign in str(said)


def test_new_generations_are_above_what_was_told_in_the_order_of_the_rollouts() -> None:
    rollouts = [rollout(1, OLD), rollout(2, NEW, Strategy.ONE)]
    assert renumbered(rollouts, {"m": 2}, {"m": 9}) == {"r1": 10, "r2": 11}
    assert renumbered(rollouts, {"m": 2}, {"m": 2}) == {}
    assert renumbered([*rollouts, rollout(3, OLD)], {"m": 3}, {"m": 9}) == {"r3": 10}, "others count for nobody"


@given(rollout_lists(), st.dictionaries(st.sampled_from(["m", "n"]), st.integers(0, 20)))
def test_every_rollout_that_counts_gets_a_generation_that_no_device_has_seen(
    rollouts: list[Rollout], told: dict[str, int]
) -> None:
    generations = {model: max((r.generation for r in rollouts if r.model == model), default=0) for model in ("m", "n")}
    new = renumbered(rollouts, generations, told)
    for model in ("m", "n"):
        counted = [new.get(r.rollout_id, r.generation) for r in counting(rollouts) if r.model == model]
        assert counted == sorted(set(counted)), "they grow with the rollouts"
        if told.get(model, 0) > generations[model]:
            assert all(generation > told[model] for generation in counted)
