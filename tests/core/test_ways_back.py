"""Starts that follow no clean stop, and how a device climbs back: strikes, second chances, and an end to all of it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edge_agent.contract import limits
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.lifecycle import decide
from edge_agent.core.state import Known, LiveWorker, ModelState, Moment, Phase, Settings, Status, persistent_part
from tests.core.device import FACTORY, NO_TRIAL, ONE, TWO, Device, device_on_factory


def power_cut(device: Device) -> None:
    """Everything is gone; the runtime starts again."""
    saved = persistent_part(device.state)
    device.state = saved
    device.now_s = 1.0
    device.feed(ev.Booted("m", device.settings, saved.known, ()))


def restart(device: Device, *, clean: bool, live: tuple[LiveWorker, ...] = ()) -> None:
    if clean:
        device.feed(ev.Stopping("m"))
    device.state = persistent_part(device.state)
    device.feed(ev.Booted("m", device.settings, device.state.known, live))


def come_up(device: Device) -> None:
    """Whatever is being raised comes up."""
    raising = device.state.find(device.state.raising)
    assert raising is not None
    device.up(raising)


def device_with_two_in_probation() -> Device:
    device = device_on_factory()
    device.bring_in(ONE)
    device.bring_in(TWO, confirm=False)
    return device


def test_a_candidate_with_which_the_device_goes_down_again_and_again_is_given_up() -> None:
    device = device_with_two_in_probation()
    for strikes in (1, 2):
        power_cut(device)
        assert device.state.candidate is not None and device.state.candidate.unclean_starts == strikes
        assert device.state.raising == TWO.digest
        come_up(device)
    power_cut(device)
    assert [(q.digest, q.reason) for q in device.state.quarantine] == [(TWO.digest, Reason.UNCLEAN_STARTS)]
    assert device.state.raising == device.state.wanted == ONE.digest


def test_strikes_are_in_the_state_that_is_saved_before_anything_is_loaded() -> None:
    device = device_with_two_in_probation()
    power_cut(device)
    again = persistent_part(device.state)
    assert again.candidate is not None and again.candidate.unclean_starts == 1


@pytest.mark.parametrize("phase", [Phase.VERIFIED, Phase.PROBATION])
def test_a_device_that_goes_down_while_it_loads_the_candidate_counts_it_too(phase: Phase) -> None:
    device = device_on_factory()
    device.feed(ev.OfferBegun("m", ONE, complete=True, retry=False))
    assert device.state.phase is Phase.RECEIVED
    power_cut(device)
    assert device.state.candidate is not None and device.state.candidate.unclean_starts == 0, "nothing was loaded"
    device.feed(ev.VerifyPassed("m", ONE.digest))
    if phase is Phase.PROBATION:
        device.up(FACTORY)
        device.up(ONE)
        device.feed(ev.Routed("m", ONE.digest))
    power_cut(device)
    assert device.state.candidate is not None and device.state.candidate.unclean_starts == 1


def test_a_clean_stop_and_a_runtime_that_died_alone_are_no_strikes() -> None:
    device = device_with_two_in_probation()
    restart(device, clean=True)
    come_up(device)
    restart(device, clean=False, live=(LiveWorker("w", TWO.digest),))
    assert device.state.candidate is not None and device.state.candidate.unclean_starts == 0


def device_with_two_confirmed() -> Device:
    device = device_on_factory()
    device.bring_in(ONE)
    device.now_s += 1.0
    device.bring_in(TWO)
    return device


def test_a_confirmed_snapshot_with_which_the_device_goes_down_again_and_again_is_left() -> None:
    device = device_with_two_confirmed()
    for _ in range(limits.UNCLEAN_STARTS_MAX):
        power_cut(device)
        assert device.state.raising == TWO.digest
        come_up(device)
    power_cut(device)
    assert device.state.raising == ONE.digest
    assert device.state.wanted == TWO.digest and device.state.fallback_reason is Reason.RESTART_LOOP
    assert not device.state.quarantine, "it was confirmed: left, not condemned"


def test_serving_steadily_clears_a_confirmed_snapshots_strikes() -> None:
    device = device_with_two_confirmed()
    power_cut(device)
    come_up(device)
    assert device.state.wakes_at_s() == device.now_s + limits.STEADY_S
    device.now_s += limits.STEADY_S
    device.feed(ev.Woke("m"))
    known = device.state.find(TWO.digest)
    assert known is not None and known.unclean_starts == 0
    assert device.state.wakes_at_s() is None


def test_it_climbs_back_after_a_pause_and_one_more_strike_throws_it_down_again() -> None:
    device = device_with_two_confirmed()
    for _ in range(limits.UNCLEAN_STARTS_MAX + 1):
        power_cut(device)
        come_up(device)
    assert device.state.active == ONE.digest
    woken_s = device.state.wakes_at_s()
    assert woken_s is not None
    device.now_s = woken_s
    device.feed(ev.Woke("m"))
    assert device.state.raising == TWO.digest and device.state.climbs == 1
    come_up(device)
    assert device.state.active == TWO.digest and device.state.fallback_reason is None
    power_cut(device)
    assert device.state.raising == ONE.digest and device.state.fallback_reason is Reason.RESTART_LOOP


def test_a_struck_snapshot_is_better_than_none() -> None:
    device = Device(replace(ONE, confirmed_unix_ms=5))
    device.up(ONE)
    for _ in range(10):
        power_cut(device)
        assert device.state.raising == ONE.digest
        come_up(device)
    known = device.state.find(ONE.digest)
    assert known is not None and known.unclean_starts == limits.UNCLEAN_STARTS_MAX + 1, "bounded"


def test_a_new_intent_starts_the_count_of_climbs_anew() -> None:
    device = device_with_two_confirmed()
    device.state = replace(device.state, climbs=limits.CLIMBS_MAX)
    device.feed(ev.AssignmentTaken("m", ONE.digest, ONE.version, 1, 1))
    assert device.state.climbs == 0


def test_while_nothing_serves_the_ladder_is_tried_again_ever_more_seldom() -> None:
    device = Device(replace(ONE, confirmed_unix_ms=5), settings=Settings(NO_TRIAL, retry_s=30.0))
    device.feed(ev.BringUpFailed("m", ONE.digest, Reason.LOAD_MEMORY, "x"))
    pauses = []
    for _ in range(8):
        assert device.state.status is Status.DOWN
        woken_s = device.state.wakes_at_s()
        assert woken_s is not None
        pauses.append(woken_s - device.now_s)
        device.now_s = woken_s
        device.feed(ev.Woke("m"))
        assert device.state.raising == ONE.digest
        device.feed(ev.BringUpFailed("m", ONE.digest, Reason.LOAD_MEMORY, "x"))
    assert pauses == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]


POLICIES = (
    NO_TRIAL,
    Policy(shadow_s=5.0, shadow_requests_min=0, share_percents=(10,), share_step_s=5.0, share_requests_min=0),
)


@pytest.mark.parametrize("seed", range(300))
def test_nothing_goes_round_for_ever(seed: int) -> None:
    """From any state that a walk reaches: without another word from outside, and whatever snapshots do (load or not,
    crash again and again), the slot changes what serves a bounded number of times, in ten years.
    """
    chance = random.Random(seed)
    snapshots = (FACTORY, ONE, TWO, Known("4" * 64, "4.0", 9, "i"))
    settings = Settings(chance.choice(POLICIES), retry_s=30.0)
    bad = {known.digest: chance.choice(["good", "never loads", "crashes", "crashes later"]) for known in snapshots}
    bad[FACTORY.digest] = chance.choice(["good", "crashes later"])
    device = Device(*(replace(k, confirmed_unix_ms=chance.choice([0, 5, 9])) for k in snapshots), settings=settings)
    device.feed(ev.AssignmentTaken("m", TWO.digest, TWO.version, 1, 1))
    switches = 0
    for number in range(3_000):
        event = _what_comes_next(device, bad, chance, number)
        if event is None:
            break
        before = device.state.active
        device.feed(event)
        switches += device.state.active not in (None, before)
    assert switches <= 3 * (limits.CLIMBS_MAX + len(snapshots)), f"{switches} changes of what serves"


def _what_comes_next(device: Device, bad: dict[str, str], chance: random.Random, number: int) -> ev.Event | None:
    """What the world answers to the present state; None when it is at rest for ten years."""
    state = device.state
    waits = state.candidate.digest if state.candidate and state.phase is Phase.VERIFIED else state.raising
    if state.phase is Phase.RECEIVED and state.candidate:
        return ev.VerifyPassed("m", state.candidate.digest)
    if waits is not None and not state.live_count(waits):
        if bad[waits] == "never loads":
            return ev.BringUpFailed("m", waits, Reason.LOAD_REFUSED, "x")
        return ev.WorkerUp("m", f"w{number}", waits)
    if state.in_trial and state.phase is Phase.PROVEN and state.candidate:
        return ev.TrialRouted("m", state.candidate.digest, state.candidate.share_percent or 0)
    if state.phase is Phase.PROVEN and state.active:
        return ev.Routed("m", state.active)
    if state.active and bad[state.active] == "crashes" and _is_first(state, state.active, device.now_s):
        return ev.WorkerCrashed("m", state.active, f"r{number}")
    woken_s = state.wakes_at_s()
    if state.active and bad[state.active] == "crashes later" and woken_s is None and chance.random() < 0.9:
        device.now_s += 100.0
        return ev.WorkerCrashed("m", state.active, f"r{number}") if chance.random() < 0.5 else ev.Woke("m")
    if woken_s is None or woken_s > 10 * 365 * 86400:
        return None
    device.now_s = max(device.now_s, woken_s)
    return ev.Woke("m")


def _is_first(state: ModelState, digest: str, now_s: float) -> bool:
    recent = [
        crash for crash in state.crashes if crash.digest == digest and now_s - crash.at_s <= limits.CRASH_WINDOW_S
    ]
    return len(recent) < limits.CRASH_EVIDENCE_MIN


def test_the_bound_is_not_vacuous() -> None:
    """A confirmed snapshot that crashes each time it serves is left and climbed back to, CLIMBS_MAX times."""
    device = device_with_two_confirmed()
    climbed = 0
    for number in range(10_000):
        if device.state.raising is not None:
            climbed += device.state.raising == TWO.digest
            come_up(device)
        elif device.state.active == TWO.digest:
            device.feed(ev.WorkerCrashed("m", TWO.digest, f"r{number}"))
        elif (woken_s := device.state.wakes_at_s()) is not None:
            device.now_s = woken_s
            device.feed(ev.Woke("m"))
        else:
            break
    assert climbed == limits.CLIMBS_MAX
    assert device.state.active == ONE.digest and device.state.fallback_reason is Reason.CRASH_LOOP


def test_a_saved_state_of_a_boot_in_any_phase_is_consistent() -> None:
    for phase in (Phase.VERIFIED, Phase.PROVEN, Phase.TRIAL, Phase.PROBATION):
        device = device_with_two_in_probation()
        assert device.state.candidate is not None
        percent = 10 if phase is Phase.TRIAL else None
        active = ONE.digest if phase is Phase.TRIAL else TWO.digest
        saved = replace(
            persistent_part(device.state),
            active=active,
            candidate=replace(device.state.candidate, phase=phase, share_percent=percent),
        )
        step = decide(saved, ev.Booted("m", device.settings, saved.known, ()), Moment(1.0, 5))
        assert step.state.fault() is None and step.state.raising is not None
