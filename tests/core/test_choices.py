"""What somebody on the device chooses holds until a higher generation of that model, and what the device's condition
forbids waits.
"""

from __future__ import annotations

from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind
from edge_agent.core import events as ev
from edge_agent.core.actions import Tell
from edge_agent.core.assignment import wants
from edge_agent.core.lifecycle import Step
from edge_agent.core.state import Known, Phase
from tests.core.device import FACTORY, ONE, TWO, Device, actions_of, device_on_factory


def assign(device: Device, snapshot: Known, generation: int) -> Step:
    return device.feed(ev.AssignmentTaken("m", snapshot.digest, snapshot.version, 1, generation))


def told(step: Step, kind: ReportKind) -> list[Tell]:
    return [tell for tell in actions_of(step, Tell) if isinstance(tell, Tell) and tell.kind is kind]


def device_on_two() -> Device:
    device = device_on_factory()
    assign(device, ONE, 1)
    device.bring_in(ONE)
    assign(device, TWO, 2)
    device.bring_in(TWO)
    return device


def test_a_pin_takes_nothing_new_until_a_higher_generation() -> None:
    device = device_on_two()
    step = device.feed(ev.PinAsked("m", ONE.version))
    device.up(ONE)
    assert device.state.active == ONE.digest and [tell.detail for tell in told(step, ReportKind.OPERATOR)] == ["pinned"]
    newer = Known("4" * 64, "4.0", 9, "i")
    refused = device.feed(ev.OfferBegun("m", newer, complete=False, retry=False)).refusal
    assert refused is not None and refused.reason is Reason.PINNED
    assign(device, TWO, 2)
    assert device.state.active == ONE.digest and not wants(device.state), "the same generation changes nothing"
    assign(device, TWO, 3)
    assert not device.state.pinned and device.state.raising == TWO.digest


def test_a_pin_of_what_serves_needs_no_version_and_twice_is_once() -> None:
    device = device_on_two()
    device.feed(ev.PinAsked("m", None))
    before = device.state
    assert before.pinned and before.active == TWO.digest
    device.feed(ev.PinAsked("m", None))
    assert device.state == before


def test_a_pinned_slot_takes_repairs() -> None:
    device = device_on_two()
    device.feed(ev.PinAsked("m", None))
    device.feed(ev.DamageFound("m", TWO.digest, 1))
    assert device.feed(ev.OfferBegun("m", TWO, complete=False, retry=False)).refusal is None
    assert [want.digest for want in wants(device.state)] == [TWO.digest]


def test_unpinned_the_coordinators_wish_counts_again() -> None:
    device = device_on_two()
    device.feed(ev.PinAsked("m", ONE.version))
    device.up(ONE)
    step = device.feed(ev.UnpinAsked("m"))
    assert device.state.raising == TWO.digest
    assert [tell.detail for tell in told(step, ReportKind.OPERATOR)] == ["unpinned"]


def test_unpin_takes_a_rollback_back_too_and_is_harmless_without_any() -> None:
    device = device_on_two()
    before = device.state
    device.feed(ev.UnpinAsked("m"))
    assert device.state == before
    device.feed(ev.RollbackAsked("m", ONE.version))
    device.up(ONE)
    device.feed(ev.UnpinAsked("m"))
    assert device.state.raising == TWO.digest


def test_a_pin_to_nothing_is_refused() -> None:
    step = Device().feed(ev.PinAsked("m", None))
    assert step.refusal is not None and step.refusal.reason is Reason.UNKNOWN_VERSION
    step = device_on_two().feed(ev.PinAsked("m", "9.9"))
    assert step.refusal is not None and "0.9, 1.0, 2.0" in step.refusal.text


def test_an_update_waits_for_better_conditions_and_the_reason_is_told_once() -> None:
    device = device_on_factory()
    device.feed(ev.ConditionsSeen("m", Reason.LOW_BATTERY))
    step = assign(device, ONE, 1)
    assert [tell.reason for tell in told(step, ReportKind.DECLINED)] == [Reason.LOW_BATTERY]
    assert device.state.phase is Phase.ASSIGNED and not wants(device.state)
    assert told(assign(device, ONE, 1), ReportKind.DECLINED) == []
    refused = device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False)).refusal
    assert refused is not None and refused.reason is Reason.LOW_BATTERY
    device.feed(ev.ConditionsSeen("m", None))
    assert [want.digest for want in wants(device.state)] == [ONE.digest]
    device.bring_in(ONE)
    assert device.state.active == ONE.digest


def test_what_is_here_already_waits_as_well_and_begins_by_itself() -> None:
    device = device_on_factory()
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    device.feed(ev.OfferCompleted("m", ONE.digest))
    device.feed(ev.RollbackAsked("m", FACTORY.version))
    assert device.state.phase is Phase.NONE
    device.feed(ev.ConditionsSeen("m", Reason.TOO_HOT))
    assign(device, ONE, 1)
    assert device.state.phase is Phase.ASSIGNED
    device.feed(ev.ConditionsSeen("m", None))
    assert device.state.phase is Phase.RECEIVED


def test_ways_back_and_repairs_are_not_held_up() -> None:
    device = device_on_two()
    device.feed(ev.ConditionsSeen("m", Reason.OUTSIDE_WINDOW))
    device.feed(ev.DamageFound("m", TWO.digest, 1))
    assert [want.repair for want in wants(device.state)] == [True]
    assert device.feed(ev.OfferBegun("m", TWO, complete=False, retry=False)).refusal is None
    assign(device, ONE, 3)
    assert device.state.raising == ONE.digest, "confirmed here: gone back to at once"


def test_what_is_under_way_goes_on() -> None:
    device = device_on_factory()
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    device.feed(ev.ConditionsSeen("m", Reason.ON_BATTERY))
    device.feed(ev.OfferCompleted("m", ONE.digest))
    device.feed(ev.VerifyPassed("m", ONE.digest))
    device.up(ONE)
    assert device.state.active == ONE.digest
