"""Probation: what serves as the wanted snapshot is confirmed or watched, also when a newer offer cut in.
Other paths through the lifecycle are in test_lifecycle.
"""

from __future__ import annotations

import pytest

from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind
from edge_agent.core import events as ev
from edge_agent.core.actions import Tell
from edge_agent.core.ladder import last_good
from edge_agent.core.lifecycle import Step, decide
from edge_agent.core.state import Known, LiveWorker, Moment, Phase, Status, persistent_part
from tests.core.device import FACTORY, ONE, TWO, Device, actions_of, device_on_factory

THREE = Known("4" * 64, "4.0", 5, "i")


def told(step: Step) -> list[Tell]:
    return [action for action in step.actions if isinstance(action, Tell)]


def device_with_one_watched_and_two_offered() -> Device:
    device = device_on_factory()
    device.bring_in(ONE, confirm=False)
    device.feed(ev.OfferBegun("m", TWO, complete=False, retry=False))
    assert device.state.phase is Phase.FETCHING
    return device


def device_with_two_watched_over_an_unconfirmed_one() -> Device:
    device = device_with_one_watched_and_two_offered()
    device.feed(ev.OfferCompleted("m", TWO.digest))
    device.feed(ev.VerifyPassed("m", TWO.digest))
    device.up(TWO)
    device.feed(ev.Routed("m", TWO.digest))
    return device


def assert_one_is_confirmed_after_its_time(device: Device) -> None:
    assert (device.state.phase, device.state.active) == (Phase.PROBATION, ONE.digest)
    device.now_s += device.probation_s
    step = device.feed(ev.Woke("m"))
    assert [tell.phase for tell in told(step)] == ["confirmed"]
    assert device.state.wanted == ONE.digest


def test_a_watched_snapshot_whose_newer_offer_is_abandoned_is_watched_again() -> None:
    device = device_with_one_watched_and_two_offered()
    device.feed(ev.OfferAbandoned("m", TWO.digest, Reason.OFFER_ABANDONED))
    assert_one_is_confirmed_after_its_time(device)


@pytest.mark.parametrize("reason", [Reason.PROOF, Reason.ENGINE_MISSING, Reason.LOAD_CRASH])
def test_a_watched_snapshot_whose_newer_one_fails_is_watched_again(reason: Reason) -> None:
    device = device_with_one_watched_and_two_offered()
    device.feed(ev.OfferCompleted("m", TWO.digest))
    device.feed(ev.VerifyPassed("m", TWO.digest))
    device.feed(ev.BringUpFailed("m", TWO.digest, reason, "x"))
    assert_one_is_confirmed_after_its_time(device)


def test_a_newer_one_that_fails_in_its_own_probation_gives_back_to_the_one_that_it_cut_short() -> None:
    device = device_with_two_watched_over_an_unconfirmed_one()
    for fingerprint in ("r1", "r2", "r3"):
        device.feed(ev.WorkerCrashed("m", TWO.digest, fingerprint))
    assert_one_is_confirmed_after_its_time(device)


def test_a_boot_while_the_newer_one_is_fetched_goes_on_with_what_served() -> None:
    device = device_with_one_watched_and_two_offered()
    saved = persistent_part(device.state)
    alive = (LiveWorker("w9", ONE.digest),)
    for live in ((), alive):
        step = decide(saved, ev.Booted("m", device.settings, (FACTORY, ONE), live), Moment(5.0, 10_000))
        assert ONE.digest in (step.state.active, step.state.raising)
        woken = decide(step.state, ev.Woke("m"), Moment(50.0, 55_000)).state
        assert ONE.digest in (woken.active, woken.raising), "and does not go back a moment later"


def test_crashes_while_the_newer_one_is_fetched_still_speak_against_the_unconfirmed_one() -> None:
    device = device_with_one_watched_and_two_offered()
    for fingerprint in ("r1", "r2", "r3"):
        device.feed(ev.WorkerCrashed("m", ONE.digest, fingerprint))
    assert FACTORY.digest in (device.state.active, device.state.raising)
    assert [(q.digest, q.reason) for q in device.state.quarantine] == [(ONE.digest, Reason.PROBATION_CRASH)]
    assert device.state.wanted == FACTORY.digest


def test_the_journal_says_that_a_watched_snapshot_gave_way() -> None:
    device = device_on_factory()
    device.bring_in(ONE, confirm=False)
    step = device.feed(ev.OfferBegun("m", TWO, complete=False, retry=False))
    assert (ReportKind.DECLINED, ONE.digest, Reason.SUPERSEDED) in [(t.kind, t.digest, t.reason) for t in told(step)]
    step = device.feed(ev.RollbackAsked("m", "0.9"))
    assert (ReportKind.DECLINED, TWO.digest, Reason.SUPERSEDED) in [(t.kind, t.digest, t.reason) for t in told(step)]


def test_an_operators_way_back_to_an_unconfirmed_snapshot_is_watched() -> None:
    device = device_with_two_watched_over_an_unconfirmed_one()
    device.now_s += device.probation_s
    device.feed(ev.Woke("m"))
    assert device.state.wanted == TWO.digest
    device.feed(ev.RollbackAsked("m", ONE.version))
    device.up(ONE)
    assert_one_is_confirmed_after_its_time(device)


def test_a_crash_loop_in_probation_without_another_rung_neither_ends_serving_nor_confirms() -> None:
    device = Device(ONE)
    device.up(ONE)
    assert device.state.phase is Phase.PROBATION, "never confirmed here: watched"
    for fingerprint in ("r1", "r2", "r3", "r4"):
        step = device.feed(ev.WorkerCrashed("m", ONE.digest, fingerprint))
        assert (device.state.active, device.state.status) == (ONE.digest, Status.UP), "a flaky model beats none"
        assert actions_of(step, Tell) == []
    device.now_s += device.probation_s
    device.feed(ev.Woke("m"))
    assert device.state.phase is Phase.PROBATION, "not confirmed while crashes speak against it"


def test_a_clock_that_was_set_back_does_not_turn_the_order_of_confirmations_round() -> None:
    """What was confirmed last is what is gone back to, and what retention keeps; wall time is only a record."""
    device = device_on_factory()
    device.bring_in(ONE)
    device.now = lambda: Moment(device.now_s, 1_000)  # type: ignore[method-assign]
    device.bring_in(TWO)
    device.bring_in(THREE)
    assert [device.state.active, last_good(device.state)] == [THREE.digest, device.state.find(TWO.digest)]


def test_a_confirmed_snapshot_that_is_brought_again_stays_confirmed() -> None:
    """Chunks turned out to be missing when it was offered: what it has shown before still counts."""
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    before = device.state.find(ONE.digest)
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    device.feed(ev.OfferCompleted("m", ONE.digest))
    assert device.state.find(ONE.digest) == before and last_good(device.state) == before


def test_a_damaged_candidate_that_had_to_be_left_is_no_candidate_and_may_be_brought_again() -> None:
    """Its last worker is gone in probation and its bytes are damaged: another one serves, nobody waits for ever."""
    device = device_on_factory()
    device.bring_in(ONE, confirm=False)
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    while device.state.live_count(ONE.digest):  # two at most
        device.die(ONE)
    assert device.state.active == FACTORY.digest and device.state.candidate is None
    device.bring_in(ONE)
    assert device.state.active == ONE.digest and device.state.fallback_reason is None
