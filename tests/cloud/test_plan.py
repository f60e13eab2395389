"""What the plan decides: examples by name, then properties of any fleet. Carrying it out is tested with the service."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from cloud_sync.core.fleet import Fleet, Halt, Rollout, Slot, Strategy, Target, Turned
from cloud_sync.core.plan import Assign, HaltRollout, counting, plan, refusals, standing
from cloud_sync.core.progress import Stage, Whole, progress
from cloud_sync.limits import OFFLINE_AFTER_S
from edge_agent.contract.policy import Policy
from tests.cloud.fleets import (
    NEW,
    OLD,
    OTHER,
    carried_out,
    device,
    fleet,
    fleets,
    obedient,
    rollout,
    rollout_lists,
)

ONE = Strategy.ONE


def assigned(actions: tuple[object, ...]) -> dict[str, str]:
    """Device -> digest of `m` that it is given now."""
    return {action.device_id: action.models["m"].digest for action in actions if isinstance(action, Assign)}


def walk(devices: Fleet, rollouts: list[Rollout], **failing: str) -> list[dict[str, str]]:
    """What is assigned in each round, while every device does at once what it is told (or fails for its reason)."""
    rounds = []
    for _ in range(20):
        actions = plan(devices, rollouts, 0.0)
        if not actions:
            return rounds
        if assigned(actions):
            rounds.append(assigned(actions))
        devices, rollouts = carried_out(devices, rollouts, actions)
        devices = obedient(devices, failing=failing)
    raise AssertionError("it never ends")


def test_all_reaches_every_device_at_once_the_ones_that_are_offline_too() -> None:
    assert walk(fleet(device("d1"), device("d2", online=False)), [rollout(1)]) == [{"d1": NEW, "d2": NEW}]


def test_a_rollouts_policy_goes_with_it_to_every_device() -> None:
    policy = Policy(shadow_s=5.0)
    (action,) = plan(fleet(device("d1")), [rollout(1, policy=policy)], 0.0)
    assert isinstance(action, Assign) and action.models["m"].policy == policy


def test_one_goes_from_device_to_device_in_the_order_of_their_ids() -> None:
    devices = fleet(device("d3"), device("d1"), device("d2"))
    assert walk(devices, [rollout(1, NEW, ONE)]) == [{"d1": NEW}, {"d2": NEW}, {"d3": NEW}]


def test_one_waits_while_the_device_before_only_tries_the_snapshot() -> None:
    first = rollout(1, NEW, ONE)
    trying = device("d1", assigned=first.target(), slot=Slot(active=NEW, candidate=NEW, phase="probation"))
    assert plan(fleet(trying, device("d2")), [first], 0.0) == ()


def test_one_halts_for_good_when_a_device_quarantines_the_snapshot() -> None:
    devices, rollouts = fleet(device("d1"), device("d2"), device("d3")), [rollout(1, NEW, ONE)]
    assert walk(devices, rollouts, d2="proof") == [{"d1": NEW}, {"d2": NEW}]
    failed = Slot(active=OLD, generation=1, turned_away=(Turned(NEW, "proof", blocked=True),))
    tried = fleet(device("d1", assigned=rollouts[0].target(), slot=failed), device("d2"))
    assert plan(tried, rollouts, 0.0) == (HaltRollout("r1", Halt("d1", "proof")),)
    halted = [replace(rollouts[0], halted=Halt("d1", "proof"))]
    mended = fleet(device("d1", assigned=rollouts[0].target(), slot=Slot(active=NEW, generation=1)), device("d2"))
    assert plan(mended, halted, 0.0) == ()


@pytest.mark.parametrize(
    ("turned", "halts"),
    [
        (Turned(NEW, "incompatible", blocked=False), True),
        (Turned(NEW, "chunk_mismatch", blocked=False), False),  # it is fetched again
        (Turned(OTHER, "proof", blocked=True), False),
    ],
)
def test_one_halts_for_a_refusal_of_this_snapshot_and_not_for_how_it_was_brought(turned: Turned, halts: bool) -> None:
    first = rollout(1, NEW, ONE)
    told = device("d1", assigned=first.target(), slot=Slot(active=OLD, generation=1, turned_away=(turned,)))
    assert any(isinstance(action, HaltRollout) for action in plan(fleet(told), [first], 0.0)) is halts


def test_what_was_turned_away_in_an_earlier_rollout_does_not_halt_this_one() -> None:
    second = rollout(2, NEW, ONE)
    old_news = Slot(active=OLD, generation=1, turned_away=(Turned(NEW, "proof", blocked=True),))
    assert plan(fleet(device("d1", assigned=second.target(), slot=old_news)), [second], 0.0) == ()


def test_a_refusal_that_was_told_before_the_rollout_does_not_halt_it() -> None:
    refused = Slot(active=OLD, generation=2, turned_away=(Turned(NEW, "interface_change", blocked=False),))
    told = fleet(device("d1", slot=refused))
    second = rollout(2, NEW, ONE, refused_before=refusals(told, "m", NEW))
    again = fleet(device("d1", assigned=second.target(), slot=refused))
    assert plan(again, [second], 0.0) == ()
    assert plan(again, [replace(second, refused_before=frozenset())], 0.0) != ()


def test_one_halts_when_somebody_on_a_device_chose_otherwise() -> None:
    first = rollout(1, NEW, ONE)
    held = device("d1", assigned=first.target(), slot=Slot(active=OLD, generation=1, held=True))
    assert plan(fleet(held, device("d2")), [first], 0.0) == (HaltRollout("r1", Halt("d1", "operator")),)


def test_a_device_that_is_offline_is_passed_over_and_has_its_turn_when_it_is_back() -> None:
    gone, rollouts = device("d1", online=False), [rollout(1, NEW, ONE)]
    assert walk(fleet(gone, device("d2"), device("d3")), rollouts) == [{"d2": NEW}, {"d3": NEW}]
    assert assigned(plan(fleet(replace(gone, connected=True), device("d2")), rollouts, 0.0)) == {"d1": NEW}


def test_a_device_that_is_back_waits_while_another_one_tries_the_snapshot() -> None:
    """It may come before that one by its name: two must not try at once."""
    rollouts = [rollout(1, NEW, ONE)]
    trying = device("d2", assigned=rollouts[0].target(), slot=Slot(active=OLD, candidate=NEW, phase="trial"))
    assert plan(fleet(device("d1"), trying), rollouts, 0.0) == ()
    done = replace(trying, slots={"m": Slot(active=NEW)})
    assert assigned(plan(fleet(device("d1"), done), rollouts, 0.0)) == {"d1": NEW}


def test_a_device_that_fell_silent_counts_as_offline() -> None:
    rollouts = [rollout(1, NEW, ONE)]
    trying = device("d1", assigned=rollouts[0].target(), slot=Slot(active=OLD, candidate=NEW, generation=1))
    assert plan(fleet(trying, device("d2")), rollouts, OFFLINE_AFTER_S) == ()
    talking = replace(device("d2"), heard_s=OFFLINE_AFTER_S)
    assert assigned(plan(fleet(trying, talking), rollouts, OFFLINE_AFTER_S + 1)) == {"d2": NEW}


def test_a_stuck_or_halted_rollout_never_blocks_a_newer_one() -> None:
    stuck, newer = rollout(1, NEW, ONE, halted=Halt("d1", "proof")), rollout(2, OTHER)
    failed = Slot(active=OLD, generation=1, turned_away=(Turned(NEW, "proof", blocked=True),))
    devices = fleet(device("d1", assigned=stuck.target(), slot=failed), device("d2"))
    assert walk(devices, [stuck, newer]) == [{"d1": OTHER, "d2": OTHER}]


def test_a_rollout_that_has_not_reached_a_device_leaves_it_with_what_the_older_one_gives() -> None:
    rollouts = [rollout(1, OLD), rollout(2, NEW, ONE, halted=Halt("d1", "proof"))]
    assert assigned(plan(fleet(device("d1"), device("d9")), rollouts, 0.0)) == {"d1": OLD, "d9": OLD}
    assert walk(fleet(device("d1"), device("d2")), [rollout(1, OLD), rollout(2, NEW, ONE)]) == [
        {"d1": NEW, "d2": OLD},
        {"d2": NEW},
    ]


def test_a_newer_rollout_counts_for_the_devices_that_it_names_alone() -> None:
    rollouts = [rollout(1, OLD), rollout(2, NEW, Strategy.ALL, "d2")]
    assert walk(fleet(device("d1"), device("d2")), rollouts) == [{"d1": OLD, "d2": NEW}]
    assert [one.rollout_id for one in standing(rollouts)] == ["r1", "r2"]
    assert [one.rollout_id for one in standing([*rollouts, rollout(3, OTHER, Strategy.ALL, "d2")])] == ["r1", "r3"]
    assert [one.rollout_id for one in standing([*rollouts, rollout(3, OTHER)])] == ["r3"]


def test_a_device_that_appears_later_is_taken_in_where_all_were_meant() -> None:
    meant_all, meant_some = [rollout(1)], [rollout(1, NEW, Strategy.ALL, "d1")]
    assert assigned(plan(fleet(device("d7")), meant_all, 0.0)) == {"d7": NEW}
    assert plan(fleet(device("d7")), meant_some, 0.0) == ()


def test_a_model_that_a_device_does_not_run_any_more_leaves_its_assignment() -> None:
    without = replace(device("d1", assigned=rollout(1).target()), models=frozenset({"n"}))
    assert plan(fleet(without), [rollout(1)], 0.0) == (Assign("d1", {}),)


def test_a_new_epoch_or_a_device_ahead_of_us_is_told_again() -> None:
    done = device("d1", assigned=rollout(1).target())
    assert plan(fleet(done), [rollout(1)], 0.0) == ()
    assert assigned(plan(fleet(replace(done, epoch=7)), [rollout(1)], 0.0)) == {"d1": NEW}
    assert assigned(plan(fleet(replace(done, told_revision=5)), [rollout(1)], 0.0)) == {"d1": NEW}


def test_progress_says_where_each_device_is() -> None:
    first = rollout(1)
    target = first.target()

    def one(name: str, **slot: object) -> object:
        return device(name, assigned=target, slot=Slot(**slot))  # type: ignore[arg-type]

    devices = fleet(
        one("assigned", active=OLD),  # type: ignore[arg-type]
        one("fetching", candidate=NEW, phase="fetching"),  # type: ignore[arg-type]
        one("proving", candidate=NEW, phase="verified"),  # type: ignore[arg-type]
        one("probation", active=NEW, candidate=NEW, phase="probation"),  # type: ignore[arg-type]
        one("done", active=NEW),  # type: ignore[arg-type]
        one("failed", generation=1, turned_away=(Turned(NEW, "proof", blocked=True),)),  # type: ignore[arg-type]
        device("offline", online=False, assigned=target),
        device("pending"),
    )
    shown = progress(devices, [first], 0.0)["r1"]
    assert {name: stage.value for name, stage in shown.devices.items()} == {name: name for name in devices.devices}
    assert shown.state is Whole.RUNNING


def test_a_rollout_is_done_when_all_that_are_there_are_done() -> None:
    first = rollout(1)
    done = device("d1", assigned=first.target(), slot=Slot(active=NEW))
    gone = device("d2", online=False)
    assert progress(fleet(done, gone), [first], 0.0)["r1"].state is Whole.DONE
    assert progress(fleet(gone), [first], 0.0)["r1"].state is Whole.RUNNING
    assert progress(fleet(done, device("d3")), [first], 0.0)["r1"].state is Whole.RUNNING
    assert progress(fleet(done), [first, rollout(2, OTHER)], 0.0)["r1"].state is Whole.SUPERSEDED


def test_a_rollout_to_all_is_halted_once_nothing_more_can_come_and_some_failed() -> None:
    first = rollout(1)
    done = device("d1", assigned=first.target(), slot=Slot(active=NEW))
    turned = Slot(active=OLD, generation=1, turned_away=(Turned(NEW, "proof", blocked=True),))
    failed = device("d2", assigned=first.target(), slot=turned)
    shown = progress(fleet(done, failed), [first], 0.0)["r1"]
    assert (shown.state, shown.halted) == (Whole.HALTED, Halt("d2", "proof"))
    assert progress(fleet(done, failed, device("d3")), [first], 0.0)["r1"].state is Whole.RUNNING


# ---- any fleet


@given(fleets(), rollout_lists())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(devices: Fleet, rollouts: list[Rollout]) -> None:
    for _ in range(4):
        actions = plan(devices, rollouts, 0.0)
        if not actions:
            return
        devices, rollouts = carried_out(devices, rollouts, actions)
    raise AssertionError(f"still something to do: {plan(devices, rollouts, 0.0)}")


@given(fleets(), rollout_lists())
def test_the_plan_is_the_same_whatever_the_order_of_its_input(devices: Fleet, rollouts: list[Rollout]) -> None:
    turned_round = Fleet(dict(reversed(devices.devices.items())), devices.epoch)
    assert plan(turned_round, rollouts[::-1], 0.0) == plan(devices, rollouts, 0.0)


@given(fleets(), rollout_lists())
def test_rollouts_that_do_not_count_any_more_change_nothing(devices: Fleet, rollouts: list[Rollout]) -> None:
    assert plan(devices, counting(rollouts), 0.0) == plan(devices, rollouts, 0.0)
    shown = progress(devices, rollouts, 0.0)
    not_superseded = {one for one, p in shown.items() if p.state is not Whole.SUPERSEDED}
    assert not_superseded == {r.rollout_id for r in standing(rollouts)}


@given(fleets(), rollout_lists())
def test_nobody_is_given_what_no_rollout_for_him_says(devices: Fleet, rollouts: list[Rollout]) -> None:
    for action in plan(devices, rollouts, 0.0):
        if isinstance(action, Assign):
            one = devices.devices[action.device_id]
            for model, target in action.models.items():
                assert any(r.model == model and r.covers(one) and r.target() == target for r in rollouts)


@given(fleets(), rollout_lists())
def test_one_by_one_never_begins_with_a_second_device_before_the_first_is_confirmed(
    devices: Fleet, rollouts: list[Rollout]
) -> None:
    after, rollouts = carried_out(devices, rollouts, plan(devices, rollouts, 0.0))
    for rollout_id, shown in progress(after, rollouts, 0.0).items():
        one = next(r for r in rollouts if r.rollout_id == rollout_id)
        before = {
            name for name in shown.devices if devices.devices[name].assigned.get(one.model) == Target(
                one.digest, one.version, one.generation
            )
        }  # fmt: skip
        begun = [
            n for n, stage in shown.devices.items() if n not in before and stage in (Stage.ASSIGNED, Stage.FETCHING)
        ]
        if one.strategy is ONE and one.halted is None:
            assert len(begun) <= 1


@given(fleets(), rollout_lists())
def test_while_devices_do_as_they_are_told_every_rollout_comes_to_its_end(
    devices: Fleet, rollouts: list[Rollout]
) -> None:
    obeyed: Fleet = devices
    for _ in range(12):
        actions = plan(obeyed, rollouts, 0.0)
        obeyed, rollouts = carried_out(obeyed, rollouts, actions)
        obeyed = obedient_everywhere(obeyed)
    assert plan(obeyed, rollouts, 0.0) == ()
    for shown in progress(obeyed, rollouts, 0.0).values():
        if shown.state is Whole.RUNNING:
            assert set(shown.devices.values()) <= {Stage.OFFLINE}


def obedient_everywhere(before: Fleet) -> Fleet:
    """As `obedient`, for every model."""
    devices = {
        name: replace(
            one,
            slots={m: Slot(active=t.digest, generation=t.generation) for m, t in one.assigned.items()},
            told_revision=one.revision,
        )
        if one.online(0.0)
        else one
        for name, one in before.devices.items()
    }
    return replace(before, devices=devices)
