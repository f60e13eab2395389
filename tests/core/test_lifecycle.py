"""Paths through the lifecycle, event by event, with a clock that only the test moves. Random walks are elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.contract import limits
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.actions import DropOffer, KeepWorkers, Route, Tell, Verify
from edge_agent.core.effects import wanted_workers
from edge_agent.core.lifecycle import decide
from edge_agent.core.serving import needed_digests
from edge_agent.core.state import LiveWorker, Moment, Phase, Settings, Status, persistent_part
from tests.core.device import FACTORY, ONE, OTHER_INTERFACE, TWO, Device, actions_of, device_on_factory


def test_first_boot_brings_up_the_factory_snapshot() -> None:
    device = Device(FACTORY)
    assert (device.state.status, device.state.raising) == (Status.RAISING, FACTORY.digest)
    assert actions_of(device.booted, Route) == [Route("m", FACTORY.digest, None)], "requests wait for it already"
    device.up(FACTORY)
    assert device.state.active == FACTORY.digest


def test_a_device_with_nothing_waits_without_failing() -> None:
    assert Device().state.status is Status.EMPTY


def test_a_candidate_passes_through_every_phase_and_is_confirmed() -> None:
    device = device_on_factory()
    assert device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False)).refusal is None
    assert device.state.phase is Phase.FETCHING
    assert actions_of(device.feed(ev.OfferCompleted("m", ONE.digest)), Verify) == [Verify("m", ONE.digest)]
    step = device.feed(ev.VerifyPassed("m", ONE.digest))
    assert ONE.digest in actions_of(step, KeepWorkers)[0].digests  # type: ignore[attr-defined]
    assert device.state.active == FACTORY.digest, "what serves is left only for a proven one"
    step = device.up(ONE)
    assert actions_of(step, Route) == [Route("m", ONE.digest, None)]
    device.feed(ev.Routed("m", ONE.digest))
    assert device.state.phase is Phase.PROBATION
    assert device.state.live_count(FACTORY.digest), "the previous one stays loaded"
    device.now_s += 9.9
    device.feed(ev.Woke("m"))
    assert device.state.phase is Phase.PROBATION, "not confirmed before its time"
    device.now_s += 0.2
    step = device.feed(ev.Woke("m"))
    assert device.state.candidate is None
    assert device.state.wanted == ONE.digest
    assert [tell.phase for tell in actions_of(step, Tell)] == ["confirmed"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("reason", [Reason.PROOF, Reason.LOAD_CRASH, Reason.NON_FINITE, Reason.LOAD_TIMEOUT])
def test_a_candidate_that_fails_is_quarantined_and_nothing_else_changes(reason: Reason) -> None:
    device = device_on_factory()
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    device.feed(ev.OfferCompleted("m", ONE.digest))
    device.feed(ev.VerifyPassed("m", ONE.digest))
    device.feed(ev.BringUpFailed("m", ONE.digest, reason, "detail"))
    assert device.state.candidate is None
    assert device.state.active == FACTORY.digest
    assert device.state.quarantine[0].reason is reason
    again = device.feed(ev.OfferBegun("m", ONE, complete=True, retry=False))
    assert again.refusal is not None
    assert again.refusal.reason is Reason.QUARANTINED
    assert device.feed(ev.OfferBegun("m", ONE, complete=True, retry=True)).refusal is None, "an operator may insist"


@pytest.mark.parametrize("reason", [Reason.ENGINE_MISSING, Reason.DAMAGE])
def test_what_is_not_the_snapshots_fault_leaves_its_name_clean(reason: Reason) -> None:
    device = device_on_factory()
    device.feed(ev.OfferBegun("m", ONE, complete=True, retry=False))
    device.feed(ev.VerifyPassed("m", ONE.digest))
    device.feed(ev.BringUpFailed("m", ONE.digest, reason, "detail"))
    assert device.state.quarantine == ()
    assert device.state.candidate is None


def test_crashes_by_different_requests_in_probation_quarantine_and_go_back_at_once() -> None:
    device = device_on_factory()
    device.bring_in(ONE, confirm=False)
    for fingerprint in ("r1", "r2"):
        device.feed(ev.WorkerCrashed("m", ONE.digest, fingerprint))
    assert device.state.active == ONE.digest
    step = device.feed(ev.WorkerCrashed("m", ONE.digest, "r1"))
    assert device.state.active == FACTORY.digest, "the previous one is still loaded"
    assert device.state.quarantine[0].reason is Reason.PROBATION_CRASH
    assert actions_of(step, Route)[0].digest == FACTORY.digest  # type: ignore[attr-defined]


def test_one_poison_request_never_speaks_against_the_model() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    for _ in range(20):
        device.feed(ev.WorkerCrashed("m", ONE.digest, "same"))
    assert device.state.active == ONE.digest
    assert device.state.quarantine == ()


def test_a_crash_loop_of_a_confirmed_snapshot_steps_down_the_ladder() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    for fingerprint in ("r1", "r2", "r3"):
        device.feed(ev.WorkerCrashed("m", TWO.digest, fingerprint))
    assert device.state.fallback_reason is Reason.CRASH_LOOP
    assert ONE.digest in (device.state.raising, device.state.active)


def test_crashes_outside_the_window_are_forgotten() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    for fingerprint in ("r1", "r2", "r3", "r4"):
        device.feed(ev.WorkerCrashed("m", ONE.digest, fingerprint))
        device.now_s += limits.CRASH_WINDOW_S
    assert device.state.active == ONE.digest


def test_the_last_snapshot_is_not_left_for_nothing() -> None:
    device = Device(ONE)
    device.up(ONE)
    for fingerprint in ("r1", "r2", "r3", "r4"):
        device.feed(ev.WorkerCrashed("m", ONE.digest, fingerprint))
    assert device.state.active == ONE.digest, "a flaky model beats none"


def test_damage_on_disk_does_not_disturb_loaded_bytes_and_is_repaired_without_a_fallback() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.up(ONE)
    step = device.feed(ev.DamageFound("m", ONE.digest, 2))
    assert device.state.active == ONE.digest
    assert actions_of(step, Route) == []
    device.feed(ev.Repaired("m", ONE.digest))
    assert not device.state.find(ONE.digest).damaged  # type: ignore[union-attr]
    assert device.state.fallbacks == 0


def test_damage_and_the_death_of_every_loaded_copy_is_a_fallback_and_repair_climbs_back() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    device.feed(ev.DamageFound("m", TWO.digest, 1))
    while device.state.live_count(TWO.digest):
        device.die(TWO)
    assert (device.state.status, device.state.raising) == (Status.RAISING, ONE.digest)
    assert device.state.fallback_reason is Reason.DAMAGE
    device.up(ONE)
    assert device.state.active == ONE.digest
    device.feed(ev.Repaired("m", TWO.digest))
    assert (device.state.status, device.state.raising) == (Status.CHANGING, TWO.digest)
    device.up(TWO)
    assert device.state.active == TWO.digest
    assert device.state.fallback_reason is None
    assert device.state.fallbacks == 1


def test_the_spare_is_the_previous_snapshot_in_probation_then_a_second_active_one_then_the_last_good_on_damage() -> (
    None
):
    device = device_on_factory()
    device.bring_in(ONE, confirm=False)
    assert wishes(device) == (ONE.digest, FACTORY.digest)
    device.now_s += 100
    device.feed(ev.Woke("m"))
    assert wishes(device) == (ONE.digest, ONE.digest)
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    assert wishes(device) == (ONE.digest, FACTORY.digest)


def wishes(device: Device) -> tuple[str, ...]:
    return wanted_workers(device.state)


def test_the_ladder_goes_wanted_last_good_older_factory_then_waits_and_tries_again() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    for worker in device.state.live:
        device.feed(ev.WorkerDied("m", worker.worker_id, worker.digest))
    for snapshot in (TWO, ONE, FACTORY):
        assert snapshot.digest in (device.state.raising, device.state.active)
        device.feed(ev.BringUpFailed("m", snapshot.digest, Reason.LOAD_CRASH, "x"))
    assert device.state.status is Status.DOWN
    assert device.state.fallback_reason is Reason.LADDER_EXHAUSTED
    device.now_s += device.settings.retry_s
    device.feed(ev.Woke("m"))
    assert (device.state.status, device.state.raising) == (Status.RAISING, TWO.digest)


def test_no_rung_crosses_an_interface_unless_policy_says_so() -> None:
    factory = replace(FACTORY, interface="old")
    device = Device(factory, ONE)
    device.up(ONE)
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    device.die(ONE)
    assert device.state.status is Status.DOWN
    allowing = Device(factory, ONE, settings=Settings(Policy(allow_interface_change=True)))
    allowing.up(ONE)
    allowing.feed(ev.DamageFound("m", ONE.digest, 1))
    allowing.die(ONE)
    assert allowing.state.raising == factory.digest


def test_an_offer_with_another_interface_is_refused() -> None:
    device = device_on_factory()
    step = device.feed(ev.OfferBegun("m", OTHER_INTERFACE, complete=False, retry=False))
    assert step.refusal is not None
    assert step.refusal.reason is Reason.INTERFACE_CHANGE


def test_rollback_goes_to_the_last_good_and_holds() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    generation = device.state.generation
    device.feed(ev.RollbackAsked("m", None))
    assert device.state.wanted == ONE.digest
    device.up(ONE)
    assert device.state.active == ONE.digest
    assert device.state.generation == generation + 1
    device.now_s += 10_000
    device.feed(ev.Woke("m"))
    assert device.state.active == ONE.digest


def test_rollback_to_what_is_not_there_is_refused_with_what_is() -> None:
    step = device_on_factory().feed(ev.RollbackAsked("m", "7.7"))
    assert step.refusal is not None
    assert step.refusal.reason is Reason.UNKNOWN_VERSION
    assert "0.9" in step.refusal.text


def test_rollback_that_does_not_come_up_leaves_what_serves() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO)
    device.feed(ev.RollbackAsked("m", "1.0"))
    if device.state.active != ONE.digest:
        device.feed(ev.BringUpFailed("m", ONE.digest, Reason.LOAD_FAILED, "x"))
        assert device.state.active == TWO.digest
        assert device.state.wanted == TWO.digest


def test_an_unfinished_offer_is_superseded_and_dropped() -> None:
    device = device_on_factory()
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    step = device.feed(ev.OfferBegun("m", TWO, complete=False, retry=False))
    assert actions_of(step, DropOffer) == [DropOffer("m", ONE.digest)]
    assert device.state.candidate is not None
    assert device.state.candidate.digest == TWO.digest


def test_a_boot_takes_living_workers_back_without_a_gap() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    saved = persistent_part(device.state)
    event = ev.Booted("m", device.settings, (FACTORY, ONE), (LiveWorker("w9", ONE.digest),))
    step = decide(saved, event, Moment(5.0, 10_000))
    assert (step.state.status, step.state.active) == (Status.UP, ONE.digest)


@pytest.mark.parametrize("phase", [Phase.RECEIVED, Phase.VERIFIED, Phase.PROVEN])
def test_a_boot_between_received_and_probation_verifies_again(phase: Phase) -> None:
    device = device_on_factory()
    device.feed(ev.OfferBegun("m", ONE, complete=True, retry=False))
    assert device.state.candidate is not None
    saved = replace(persistent_part(device.state), candidate=replace(device.state.candidate, phase=phase))
    step = decide(saved, ev.Booted("m", device.settings, (FACTORY, ONE), ()), Moment(5.0, 10_000))
    assert step.state.phase is Phase.RECEIVED
    assert actions_of(step, Verify) == [Verify("m", ONE.digest)]
    assert step.state.raising == FACTORY.digest, "the proven one serves meanwhile"


def test_a_boot_in_probation_goes_on_with_the_candidate_and_falls_back_if_it_fails() -> None:
    device = device_on_factory()
    device.bring_in(ONE, confirm=False)
    saved = persistent_part(device.state)
    step = decide(saved, ev.Booted("m", device.settings, (FACTORY, ONE), ()), Moment(5.0, 10_000))
    assert step.state.raising == ONE.digest
    failed = decide(step.state, ev.BringUpFailed("m", ONE.digest, Reason.LOAD_CRASH, "x"), Moment(6.0, 10_001))
    assert failed.state.raising == FACTORY.digest
    assert failed.state.quarantine[0].reason is Reason.LOAD_CRASH


def test_a_lost_state_is_rebuilt_with_the_highest_release_that_verifies() -> None:
    assert Device(FACTORY, ONE, TWO).state.raising == TWO.digest


def test_refused_offers_are_shown_bounded_and_block_nothing() -> None:
    device = device_on_factory()
    for number in range(100):
        device.feed(ev.OfferRefused("m", f"{number:064x}", "6.6", Reason.SIGNATURE, "x" * 9999))
    assert len(device.state.refused_offers) == limits.REFUSED_OFFERS_MAX
    assert len(device.state.refused_offers[0].detail) <= limits.DETAIL_CHARS_MAX
    device.feed(ev.OfferRefused("m", ONE.digest, ONE.version, Reason.SIGNATURE, "x"))
    assert device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False)).refusal is None


def test_retention_is_refused_what_is_needed() -> None:
    device = device_on_factory()
    device.bring_in(ONE)
    for digest in needed_digests(device.state):
        assert device.feed(ev.Forgotten("m", digest)).refusal is not None


def test_an_operator_who_offers_what_is_wanted_and_does_not_serve_gets_it() -> None:
    """2.0 was in probation when 1.0 was imported; 2.0 imported again is a wish, not a repair."""
    device = device_on_factory()
    device.bring_in(TWO, confirm=False)
    device.bring_in(ONE, confirm=False)
    assert (device.state.active, device.state.wanted) == (ONE.digest, TWO.digest)
    device.feed(ev.OfferBegun("m", TWO, complete=True, retry=False))
    assert device.state.candidate is not None and device.state.candidate.digest == TWO.digest


def test_a_refusal_is_not_shown_any_more_once_the_snapshot_is_taken() -> None:
    device = device_on_factory()
    for snapshot in (ONE, TWO):
        device.feed(ev.OfferRefused("m", snapshot.digest, snapshot.version, Reason.METADATA_ROLLBACK, "older"))
    device.feed(ev.OfferBegun("m", ONE, complete=False, retry=False))
    assert len(device.state.refused_offers) == 2, "nothing is here yet"
    device.feed(ev.OfferCompleted("m", ONE.digest))
    assert [refused.digest for refused in device.state.refused_offers] == [TWO.digest]
