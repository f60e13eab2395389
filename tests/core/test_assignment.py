"""The coordinator's wish at a slot: what is fetched, what is gone back to, what holds against it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind
from edge_agent.core import events as ev
from edge_agent.core.actions import Tell
from edge_agent.core.assignment import wants
from edge_agent.core.lifecycle import Step
from edge_agent.core.state import Known, Phase, Settings, Status
from tests.core.device import FACTORY, NO_TRIAL, ONE, OTHER_INTERFACE, TWO, Device, actions_of, device_on_factory


def assign(device: Device, snapshot: Known, generation: int = 1, *, epoch: int = 1, **policy: object) -> Step:
    return device.feed(
        ev.AssignmentTaken("m", snapshot.digest, snapshot.version, epoch, generation, Policy(**policy))  # type: ignore[arg-type]
    )


def wanted_digests(device: Device) -> list[str]:
    return [want.digest for want in wants(device.state)]


def test_what_is_not_here_is_awaited_then_goes_the_whole_way() -> None:
    device = device_on_factory()
    step = assign(device, ONE)
    assert device.state.phase is Phase.ASSIGNED and wanted_digests(device) == [ONE.digest]
    kinds = [(tell.kind, tell.version) for tell in actions_of(step, Tell) if isinstance(tell, Tell)]
    assert (ReportKind.ASSIGNED, "1.0") in kinds
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    assert device.state.phase is Phase.FETCHING and wanted_digests(device) == [ONE.digest]
    assert device.state.candidate is not None and device.state.candidate.snapshot == ONE
    device.bring_in(ONE)
    assert device.state.active == ONE.digest and wanted_digests(device) == []


def test_the_same_wish_again_changes_nothing() -> None:
    device = device_on_factory()
    assign(device, ONE)
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    before = device.state
    step = assign(device, ONE)
    assert device.state == before and not step.actions


def test_what_is_confirmed_here_is_gone_back_to_at_once() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    assign(device, ONE, 2)
    assert device.state.raising == ONE.digest and device.state.phase is Phase.NONE and wanted_digests(device) == []
    device.up(ONE)
    assert device.state.active == ONE.digest and device.state.fallback_reason is None


def test_a_candidate_gives_way_to_a_newer_wish_and_is_told_as_superseded() -> None:
    device = device_on_factory()
    assign(device, ONE)
    step = assign(device, TWO, 2)
    assert device.state.candidate is not None and device.state.candidate.digest == TWO.digest
    told = [tell for tell in actions_of(step, Tell) if isinstance(tell, Tell) and tell.reason is Reason.SUPERSEDED]
    assert [tell.digest for tell in told] == [ONE.digest]


@pytest.mark.parametrize(("epoch", "generation"), [(1, 1), (0, 9)])
def test_an_older_wish_is_refused(epoch: int, generation: int) -> None:
    device = device_on_factory()
    assign(device, ONE, 2)
    step = assign(device, TWO, generation, epoch=epoch)
    assert step.refusal is not None and step.refusal.reason is Reason.STALE_ASSIGNMENT


def test_what_failed_here_is_not_wanted_again_before_a_later_generation() -> None:
    device = device_on_factory()
    assign(device, ONE)
    device.feed(ev.OfferBegun("m", ONE, complete=True, retry=False))
    device.feed(ev.VerifyPassed("m", ONE.digest))
    device.feed(ev.BringUpFailed("m", ONE.digest, Reason.PROOF, "other numbers"))
    assign(device, ONE)
    assert device.state.candidate is None and wanted_digests(device) == []
    assign(device, ONE, 2)
    assert device.state.phase is Phase.RECEIVED, "its bytes are here: it is proven anew"


def test_what_an_operator_chose_on_the_device_holds_until_a_later_generation() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    assign(device, TWO)
    device.bring_in(TWO)
    device.feed(ev.RollbackAsked("m", "1.0"))
    device.up(ONE)
    assert device.state.held
    assign(device, TWO)
    assert device.state.active == ONE.digest and wanted_digests(device) == []
    assign(device, TWO, 2)
    assert not device.state.held and device.state.raising == TWO.digest


def test_a_snapshot_imported_by_hand_holds_as_well() -> None:
    device = device_on_factory()
    assign(device, ONE)
    device.bring_in(TWO)
    assert device.state.held and device.state.active == TWO.digest and wanted_digests(device) == []


def test_a_declined_snapshot_stays_wanted() -> None:
    device = device_on_factory()
    assign(device, ONE)
    device.feed(ev.OfferBegun("m", ONE, complete=True, retry=False))
    device.feed(ev.VerifyPassed("m", ONE.digest))
    device.feed(ev.BringUpFailed("m", ONE.digest, Reason.NO_WORKER, ""))
    assert device.state.candidate is None and wanted_digests(device) == [ONE.digest]


def test_damage_of_what_serves_is_wanted_as_a_repair() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    assert [(want.digest, want.repair) for want in wants(device.state)] == [(ONE.digest, True)]
    device.feed(ev.DamageFound("m", FACTORY.digest, 1))
    assert wanted_digests(device) == [ONE.digest], "the factory file is read-only"


def test_a_wish_for_something_damaged_comes_up_once_it_is_repaired() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    assign(device, ONE)
    assert device.state.active == TWO.digest and [w.repair for w in wants(device.state)] == [True]
    device.feed(ev.Repaired("m", ONE.digest))
    assert device.state.raising == ONE.digest


def test_policy_of_the_assignment_is_in_force_until_somebody_on_the_device_chooses() -> None:
    device = device_on_factory()
    assign(device, ONE, probation_s=50.0)
    device.bring_in(ONE, confirm=False)
    assert device.state.stage_ends_s == device.now_s + 50.0
    device.feed(ev.RollbackAsked("m", "0.9"))
    assert device.state.rules.probation_s == 10.0


def test_another_interface_is_refused_unless_policy_allows_it() -> None:
    device = Device(FACTORY, settings=Settings(replace(NO_TRIAL, allow_interface_change=True)))
    device.up(FACTORY)
    device.bring_in(OTHER_INTERFACE)
    device.feed(ev.RollbackAsked("m", FACTORY.version))
    device.up(FACTORY)
    other = OTHER_INTERFACE
    assign(device, other, allow_interface_change=False)
    assert device.state.active == device.state.wanted == FACTORY.digest
    assert [offer.reason for offer in device.state.refused_offers] == [Reason.INTERFACE_CHANGE]
    assign(device, other, 2, allow_interface_change=True)
    assert device.state.wanted == other.digest


def test_nothing_serving_yet_does_not_keep_a_wish_from_being_taken() -> None:
    device = Device(settings=Settings(replace(NO_TRIAL, probation_s=0.0)))
    assert device.state.status is Status.EMPTY
    assign(device, ONE)
    device.bring_in(ONE)
    assert device.state.active == ONE.digest


def device_that_raises_what_is_awaited() -> Device:
    """Records were lost, so that what is here is brought up; the same is assigned, and cannot be taken now."""
    device = Device(ONE)
    device.feed(ev.ConditionsSeen("m", Reason.LOW_BATTERY))
    assign(device, ONE)
    assert (device.state.raising, device.state.phase) == (ONE.digest, Phase.ASSIGNED)
    return device


def test_a_rung_that_is_awaited_too_serves_once_it_is_up() -> None:
    device = device_that_raises_what_is_awaited()
    device.up(ONE)
    assert (device.state.status, device.state.active) == (Status.UP, ONE.digest)
    device.feed(ev.ConditionsSeen("m", None))
    assert device.state.phase is Phase.PROBATION


def test_a_rung_that_is_awaited_too_and_does_not_come_up_is_left() -> None:
    device = device_that_raises_what_is_awaited()
    step = device.feed(ev.BringUpFailed("m", ONE.digest, Reason.LOAD_TIMEOUT, ""))
    assert step.refusal is None and device.state.status is Status.DOWN


def test_what_is_awaited_because_it_is_damaged_is_taken_as_a_candidate() -> None:
    """It was never confirmed and nothing serves: bytes alone would leave it waiting for ever."""
    device = Device(ONE)
    device.up(ONE)
    assign(device, TWO)
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    device.die(ONE)
    assign(device, ONE, generation=2)
    assert (device.state.status, device.state.phase) == (Status.DOWN, Phase.ASSIGNED)
    device.bring_in(ONE)
    known = device.state.find(ONE.digest)
    assert device.state.active == ONE.digest and known is not None and known.is_settled and not known.damaged
