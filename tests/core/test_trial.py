"""The trial: a proven candidate beside what serves, step by step, and every way out of it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from edge_agent.contract import limits
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.contract.tally import Tally
from edge_agent.core import events as ev
from edge_agent.core.actions import KeepWorkers, Route, Share, Tell
from edge_agent.core.lifecycle import Step, decide
from edge_agent.core.state import Known, LiveWorker, Phase, Settings, Status, persistent_part
from tests.core.device import FACTORY, ONE, OTHER_INTERFACE, TWO, Device, actions_of

POLICY = Policy(
    shadow_s=60.0, shadow_requests_min=10, share_percents=(10, 50), share_step_s=30.0, share_requests_min=10,
    probation_s=100.0, probation_requests_min=10,
)  # fmt: skip
GOOD = Tally(answers=10, latencies=(10,))


def device_with_one_confirmed(policy: Policy = POLICY) -> Device:
    device = Device(FACTORY, replace(ONE, confirmed_unix_ms=5), settings=Settings(policy))
    device.feed(ev.RollbackAsked("m", ONE.version))
    device.up(ONE)
    device.up(ONE)
    assert device.state.active == ONE.digest and device.state.candidate is None
    return device


def offer(device: Device, snapshot: Known = TWO) -> Step:
    device.feed(ev.OfferBegun("m", snapshot, complete=False, retry=False))
    device.feed(ev.OfferCompleted("m", snapshot.digest))
    device.feed(ev.VerifyPassed("m", snapshot.digest))
    return device.up(snapshot)


def observe(device: Device, tally: Tally, snapshot: Known = TWO) -> Step:
    return device.feed(ev.Observed("m", snapshot.digest, tally))


def in_step(percent: int) -> Device:
    """A device whose candidate TWO is in this step of its trial."""
    device = device_with_one_confirmed()
    offer(device)
    for step in (0, 10, 50):
        device.feed(ev.TrialRouted("m", TWO.digest, step))
        assert device.state.phase is Phase.TRIAL
        if step == percent:
            return device
        pass_stage(device)
    raise AssertionError(percent)


def pass_stage(device: Device) -> Step:
    device.now_s += 60.0
    return observe(device, GOOD)


def test_the_whole_way_from_proven_to_confirmed() -> None:
    device = device_with_one_confirmed()
    step = offer(device)
    assert actions_of(step, Route) == [Route("m", ONE.digest, None, Share(TWO.digest, 0), watched=True)]
    shares = [0]
    while device.state.phase is not Phase.PROBATION:
        assert device.state.active == ONE.digest, "what serves goes on serving"
        device.feed(ev.TrialRouted("m", TWO.digest, shares[-1]))
        route = actions_of(pass_stage(device), Route)[-1]
        assert isinstance(route, Route)
        shares.append(route.share.percent if route.share else 100)
    assert shares == [0, 10, 50, 100]
    assert device.state.active == TWO.digest and ONE.digest in {worker.digest for worker in device.state.live}
    device.now_s += 100.0
    observe(device, GOOD)
    assert device.state.wanted == TWO.digest and device.state.candidate is None


def test_the_candidate_is_loaded_beside_active_and_spare() -> None:
    device = device_with_one_confirmed()
    device.feed(ev.OfferBegun("m", TWO, complete=True, retry=False))
    step = device.feed(ev.VerifyPassed("m", TWO.digest))
    assert actions_of(step, KeepWorkers) == [KeepWorkers("m", (ONE.digest, TWO.digest, ONE.digest))]
    device.up(TWO)
    assert device.state.live_count(ONE.digest) == 2


def test_neither_time_nor_answers_alone_suffice() -> None:
    device = in_step(0)
    device.now_s += 1000.0
    device.feed(ev.Woke("m"))
    assert device.state.candidate is not None and device.state.candidate.share_percent == 0
    device = in_step(0)
    observe(device, GOOD)
    assert device.state.candidate is not None and device.state.candidate.share_percent == 0


def test_a_quiet_device_comes_to_an_end_by_golden_vectors() -> None:
    device = in_step(0)
    device.now_s += 60.0
    observe(device, Tally(synthetic=10, latencies=(10,)))
    assert device.state.candidate is not None and device.state.candidate.share_percent == 10


@pytest.mark.parametrize("percent", [0, 10, 50])
@pytest.mark.parametrize(
    ("tally", "reason"),
    [
        (Tally(answers=1, non_finite=1), Reason.NON_FINITE),
        (Tally(answers=9, errors=9), Reason.ERROR_RATE),
        (Tally(compared=9), Reason.DISAGREEMENT),
    ],
)
def test_a_bad_candidate_is_sent_back_before_it_takes_over(percent: int, tally: Tally, reason: Reason) -> None:
    device = in_step(percent)
    step = observe(device, tally)
    assert [(q.digest, q.reason) for q in device.state.quarantine] == [(TWO.digest, reason)]
    assert (device.state.active, device.state.status, device.state.fallbacks) == (ONE.digest, Status.UP, 0)
    assert actions_of(step, Route) == [Route("m", ONE.digest, None)]
    assert TWO.digest not in {worker.digest for worker in device.state.live}


def test_answers_of_something_else_count_for_nobody() -> None:
    device = in_step(0)
    before = device.state
    observe(device, Tally(answers=9, errors=9), FACTORY)
    assert device.state == before


def test_a_bad_one_in_probation_gives_back_to_what_served() -> None:
    device = in_step(50)
    pass_stage(device)
    assert device.state.phase is Phase.PROBATION
    observe(device, Tally(answers=10, errors=10))
    assert device.state.active == ONE.digest and device.state.wanted == ONE.digest
    assert device.state.fallback_reason is None and device.state.fallbacks == 1


def test_a_bad_one_without_another_rung_goes_on_unconfirmed() -> None:
    device = Device(TWO, settings=Settings(POLICY))
    device.up(TWO)
    assert device.state.phase is Phase.PROBATION
    device.now_s += 200.0
    observe(device, Tally(answers=100, errors=100))
    assert (device.state.active, device.state.phase) == (TWO.digest, Phase.PROBATION)
    device.now_s += 200.0
    device.feed(ev.Woke("m"))
    device.now_s += 200.0
    observe(device, Tally(answers=100, latencies=(100,)))
    assert device.state.candidate is None, "a later time told better"


def test_there_is_no_trial_without_something_to_compare_with() -> None:
    empty = Device(settings=Settings(POLICY))
    offer(empty)
    assert empty.state.active == TWO.digest
    other = device_with_one_confirmed(msgspec.structs.replace(POLICY, allow_interface_change=True))
    offer(other, OTHER_INTERFACE)
    assert other.state.active == OTHER_INTERFACE.digest and not other.state.in_trial


def test_what_it_is_compared_with_fails_and_the_next_rung_takes_its_place_in_the_comparison() -> None:
    device = in_step(10)
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    device.die(ONE)
    device.die(ONE)
    assert (device.state.status, device.state.raising) == (Status.RAISING, FACTORY.digest)
    device.up(FACTORY)
    assert device.state.phase is Phase.PROVEN and device.state.active == FACTORY.digest
    device.feed(ev.TrialRouted("m", TWO.digest, 10))
    assert device.state.watch is not None and device.state.watch.answers == 0, "compared anew"


def test_a_candidate_that_is_the_next_rung_serves_and_is_watched_once_what_it_is_compared_with_fails() -> None:
    """It is the factory snapshot, brought again while another one served; its share of requests is the past then."""
    device = device_with_one_confirmed()
    offer(device, FACTORY)
    device.feed(ev.TrialRouted("m", FACTORY.digest, 0))
    for request in "abc":
        device.die(ONE)
        device.feed(ev.WorkerCrashed("m", ONE.digest, request))
        if device.state.active == ONE.digest:
            device.up(ONE)
    assert (device.state.active, device.state.fallback_reason) == (FACTORY.digest, Reason.CRASH_LOOP)
    assert device.state.phase is Phase.PROBATION and not device.state.in_trial
    device.feed(ev.Routed("m", FACTORY.digest))
    device.now_s += 100.0
    observe(device, GOOD, FACTORY)
    assert device.state.candidate is None and device.state.wanted == FACTORY.digest


def test_a_proven_candidate_beats_nothing_at_all() -> None:
    device = Device(replace(ONE, confirmed_unix_ms=5), settings=Settings(POLICY))
    device.up(ONE)
    offer(device)
    device.feed(ev.TrialRouted("m", TWO.digest, 0))
    device.feed(ev.DamageFound("m", ONE.digest, 1))
    device.die(ONE)
    assert (device.state.active, device.state.phase) == (TWO.digest, Phase.PROBATION)


def test_a_trial_that_sees_nothing_is_given_up_in_the_end() -> None:
    device = in_step(0)
    device.now_s += 60.0
    device.feed(ev.Woke("m"))
    assert device.state.wakes_at_s() == device.now_s + limits.STAGE_OVERTIME_S
    device.now_s += limits.STAGE_OVERTIME_S
    device.feed(ev.Woke("m"))
    assert device.state.declined is not None and device.state.declined.reason is Reason.NO_EVIDENCE
    assert device.state.active == ONE.digest and not device.state.quarantine


def test_a_rollback_in_a_trial_keeps_what_serves() -> None:
    device = in_step(10)
    device.feed(ev.RollbackAsked("m", None))
    assert device.state.candidate is None and device.state.active == device.state.wanted == ONE.digest


def test_a_boot_in_a_trial_verifies_and_compares_anew() -> None:
    device = in_step(50)
    saved = persistent_part(replace(device.state, clean_stop=True))
    step = decide(saved, ev.Booted("m", device.settings, device.state.known, ()), device.now())
    assert step.state.phase is Phase.RECEIVED and not step.state.in_trial
    assert step.state.raising == ONE.digest


def test_a_candidates_worker_that_dies_is_brought_up_again() -> None:
    device = in_step(10)
    step = device.die(TWO)
    keep = actions_of(step, KeepWorkers)[-1]
    assert isinstance(keep, KeepWorkers) and TWO.digest in keep.digests
    assert device.state.phase is Phase.TRIAL


def test_a_crash_loop_in_a_trial_quarantines_also_without_another_rung() -> None:
    device = Device(replace(ONE, confirmed_unix_ms=5), settings=Settings(POLICY))
    device.up(ONE)
    offer(device)
    device.feed(ev.TrialRouted("m", TWO.digest, 0))
    for fingerprint in ("r1", "r2", "r3"):
        device.feed(ev.WorkerCrashed("m", TWO.digest, fingerprint))
    assert [q.reason for q in device.state.quarantine] == [Reason.PROBATION_CRASH]
    assert device.state.active == ONE.digest


def test_the_same_offer_changes_nothing_in_a_trial_and_another_one_takes_its_place() -> None:
    device = in_step(10)
    before = device.state
    device.feed(ev.OfferBegun("m", TWO, complete=True, retry=False))
    assert device.state == before
    newer = Known("4" * 64, "4.0", 9, "i")
    device.feed(ev.OfferBegun("m", newer, complete=False, retry=False))
    assert device.state.candidate is not None and device.state.candidate.digest == newer.digest


def test_the_story_tells_each_step() -> None:
    device = device_with_one_confirmed()
    offer(device)
    step = device.feed(ev.TrialRouted("m", TWO.digest, 0))
    told = [(tell.phase, tell.detail) for tell in actions_of(step, Tell) if isinstance(tell, Tell)]
    assert told == [("trial", "shadow")]
    step = pass_stage(device)
    told = [(tell.phase, tell.detail) for tell in actions_of(step, Tell) if isinstance(tell, Tell)]
    assert told == [("trial", "share 10 %")]


def test_the_publishers_minimum_holds_against_a_laxer_policy() -> None:
    lax = Policy(shadow_s=0.0, share_percents=(), probation_s=0.0, probation_requests_min=0)
    device = device_with_one_confirmed(lax)
    device.feed(ev.MinimumStated("m", Policy(shadow_s=60.0, shadow_requests_min=10)))
    device.feed(ev.AssignmentTaken("m", TWO.digest, TWO.version, 1, 1, lax))
    offer(device)
    assert device.state.in_trial and device.state.active == ONE.digest
    workers = (LiveWorker("w", ONE.digest),)
    saved = persistent_part(device.state)
    kept = decide(saved, ev.Booted("m", device.settings, device.state.known, workers), device.now()).state
    assert kept.rules.shadow_s == 60.0, "also after a restart"


def test_a_candidate_that_is_proven_while_another_rung_comes_up_waits_for_its_trial() -> None:
    device = Device(replace(ONE, confirmed_unix_ms=5), settings=Settings(POLICY))
    assert device.state.raising == ONE.digest, "just booted"
    offer(device)
    assert device.state.in_trial and device.state.active is None
    device.up(ONE)
    assert (device.state.active, device.state.phase) == (ONE.digest, Phase.PROVEN)
    device.feed(ev.TrialRouted("m", TWO.digest, 0))
    assert device.state.phase is Phase.TRIAL


def test_a_rung_that_does_not_come_up_leaves_the_place_to_a_proven_candidate() -> None:
    device = Device(replace(ONE, confirmed_unix_ms=5), settings=Settings(POLICY))
    offer(device)
    device.feed(ev.BringUpFailed("m", ONE.digest, Reason.LOAD_MEMORY, "x"))
    assert (device.state.active, device.state.phase) == (TWO.digest, Phase.PROBATION)
