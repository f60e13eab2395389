"""What has to hold at each device after each step, one small function each; fleet-wide ones are in `coordinator`, and
what has to be reached in the end in `goals`. A `Ledger` keeps the books that the judged code does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.contract import limits
from edge_agent.core import events as ev
from edge_agent.core.actions import Action, KeepWorkers, Route, Tell
from edge_agent.core.lifecycle import Step
from edge_agent.core.state import LiveWorker, ModelState, Phase, Status, persistent_part
from tests.simulation.faults import MODEL

if TYPE_CHECKING:
    from tests.simulation.device import Device

_OF_CHOICE = (ev.UnpinAsked, ev.OfferBegun, ev.PinAsked, ev.RollbackAsked)


@dataclass
class Stage:
    """A part of a trial, or probation (percent None), as it goes: seen by us, not by the core."""

    digest: str
    percent: int | None
    since_s: float
    answers: int = 0


@dataclass
class Ledger:
    """decided: facts of this life of the runtime since the disk last had all of them. strikes: what a digest must have
    before it is loaded again. harmed: snapshots that the disk has damaged. confirmed: in the order of their
    confirmations. saved: what this life began with.
    """

    decided: list[Tell] = field(default_factory=list)
    stage: Stage | None = None
    trial_steps: tuple[int, ...] = ()
    passed: set[int] = field(default_factory=set)
    strikes: dict[str, int] = field(default_factory=dict)
    harmed: set[str] = field(default_factory=set)
    confirmed: list[str] = field(default_factory=list)
    climbs: int = 0
    saved: ModelState | None = None


# ---- at the beginning and the end of a life


def begin_boot(device: Device, saved: ModelState | None, live: tuple[LiveWorker, ...]) -> None:
    """What an honest boot has to count and to remember."""
    ledger = device.ledger
    ledger.decided, ledger.stage, ledger.passed = [], None, set()
    ledger.saved, ledger.strikes = saved, {}
    if saved is None or saved.clean_stop or live:
        return
    tried = saved.phase in (Phase.VERIFIED, Phase.PROVEN, Phase.TRIAL, Phase.PROBATION)
    if saved.candidate is not None and tried:
        ledger.strikes[saved.candidate.digest] = saved.candidate.unclean_starts + 1
    elif (active := saved.find(saved.active)) is not None:
        ledger.strikes[active.digest] = min(active.unclean_starts + 1, limits.UNCLEAN_STARTS_MAX + 1)


def end_boot(device: Device) -> None:
    """What was in memory alone is forgotten, lawfully."""
    saved, ledger = device.disk.state, device.ledger
    if saved is None:
        return
    there = [known for known in saved.known if known.confirmed_unix_ms]
    kept = [digest for digest in ledger.confirmed if digest in {known.digest for known in there}]
    new = [known for known in there if known.digest not in kept]  # the power went between the write and the step
    ledger.confirmed = [*kept, *(known.digest for known in sorted(new, key=lambda one: one.confirmed_unix_ms))]


# ---- when something is about to be done


def check_act(device: Device, action: Action) -> None:
    """Persisted before it is acted on: the disk has what asks for this, or refuses and it is about safety."""
    executor, state = device.executor, device.executor.state(MODEL)
    on_disk, event = device.disk.state, executor.handling
    is_there = on_disk is state or (on_disk is not None and persistent_part(on_disk) == persistent_part(state))
    if not is_there:
        if executor.is_saved(MODEL):
            _broken(device, "persisted_before_acted", f"{type(action).__name__} while the disk has an older state")
        elif event is not None and not event.safety:
            _broken(device, "persisted_before_acted", f"{type(event).__name__} went on without the disk")
    if isinstance(action, KeepWorkers):
        _keeps_the_way_back(device, state, action)


def _keeps_the_way_back(device: Device, state: ModelState, action: KeepWorkers) -> None:
    """While a candidate is tried with all requests, the one before is kept loaded."""
    candidate = state.candidate
    if candidate is None or not state.candidate_is_active or candidate.previous in (None, candidate.digest):
        return
    previous = state.find(candidate.previous)
    kept = previous is None or previous.damaged or previous.digest in action.digests
    if state.settings.spare and previous is not None and not kept:
        _broken(device, "keeps_the_way_back", f"the spare of {previous.version} is ended in probation")


def check_routed(device: Device, route: Route) -> None:
    """Requests go to nothing that was not proven since the power came."""
    for digest in (route.digest, route.share.digest if route.share else None):
        raising = digest is not None and device.executor.state(MODEL).raising == digest
        if digest is not None and not raising and digest not in device.engines.proven:
            _broken(device, "serves_what_was_proven", f"requests go to {device.world.name_of(digest)}")


def check_removal(device: Device, digest: str) -> None:
    """Retention removes nothing that is needed, by our own books."""
    state = device.executor.state(MODEL)
    needed = {state.active, state.wanted, state.raising, *_last_good(device, state)}
    if state.candidate is not None:
        needed |= {state.candidate.digest, state.candidate.previous}
    if digest in needed:
        _broken(device, "retention_keeps_what_is_needed", f"{device.world.name_of(digest)} is removed")


def _last_good(device: Device, state: ModelState) -> list[str]:
    """The newest confirmation but what serves, by the order in which they happened."""
    others = [digest for digest in device.ledger.confirmed if digest != state.active]
    return others[-1:]


# ---- after each step


def after_step(device: Device, old: ModelState, event: ev.Event, step: Step) -> None:
    """All of them, in order; the books are kept first."""
    new, ledger = step.state, device.ledger
    if step.refusal is None:
        ledger.decided += [action for action in step.actions if isinstance(action, Tell)]
        if isinstance(event, ev.Observed) and ledger.stage is not None and event.digest == ledger.stage.digest:
            ledger.stage.answers += event.tally.answers + event.tally.compared + event.tally.synthetic
    for name, check in STEP_CHECKS:
        found = check(device, old, event, new)
        if found:
            _broken(device, name, f"{found} (after {type(event).__name__})")
    _keep_stage(device, old, event, new)


def no_fault(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """The state's own word."""
    return new.fault()


def strikes_before_loading(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """An unclean start counts at the boot, which is on the disk before anything is loaded again."""
    if not isinstance(event, ev.Booted):
        return None
    for digest, due in device.ledger.strikes.items():
        known = new.find(digest)
        if known is None:
            continue
        counted = known.unclean_starts
        if new.candidate is not None and new.candidate.digest == digest:
            counted = max(new.candidate.unclean_starts, counted)
        if counted < due and new.is_quarantined(digest) is None:
            return f"{device.world.name_of(digest)} has {counted} strikes of {due}"
    return None


def serves_what_was_proven(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """What serves has had a worker that verified, loaded and proved it since the power came."""
    if new.active is None or new.active in device.engines.proven:
        return None
    return f"{device.world.name_of(new.active)} serves"


def quarantined_is_left_alone(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """What failed is neither served nor tried again in the same generation; no boot forgets it."""
    for digest in (new.active, new.raising, new.candidate.digest if new.candidate else None):
        if digest is not None and new.is_quarantined(digest):
            return f"{device.world.name_of(digest)} is quarantined and used"
    before = device.ledger.saved if isinstance(event, ev.Booted) else old
    gone = {(q.digest, q.generation) for q in before.quarantine} if before else set()
    gone -= {(q.digest, q.generation) for q in new.quarantine}
    if any(generation == new.generation for _, generation in gone):
        return "a quarantine was forgotten"
    return None


def keeps_a_last_good(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """Once something was confirmed there is something to go back to, unless the disk itself has damaged it."""
    ledger = device.ledger
    if old.known == new.known:
        return None
    if isinstance(event, ev.Booted):
        ledger.confirmed = [digest for digest in ledger.confirmed if new.find(digest) or digest not in ledger.harmed]
    for digest in _last_good(device, new):
        known = new.find(digest)
        if known is None or not known.confirmed_unix_ms:
            return f"{device.world.name_of(digest)} was confirmed last and is forgotten"
    if isinstance(event, ev.Forgotten):
        ledger.confirmed = [digest for digest in ledger.confirmed if digest != event.digest]
    return None


def confirmed_in_time(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """Nothing is confirmed before its time and answers, the publisher's minimum included, or without a worker."""
    if isinstance(event, ev.Booted) or old.known == new.known:
        return None
    for known in new.known:
        before = old.find(known.digest)
        if not known.confirmed_unix_ms or (before and before.confirmed_unix_ms == known.confirmed_unix_ms):
            continue
        ledger = device.ledger
        ledger.confirmed = [*(digest for digest in ledger.confirmed if digest != known.digest), known.digest]
        ledger.climbs = 0
        stage = ledger.stage
        if stage is None or (stage.digest, stage.percent) != (known.digest, None):
            return f"{known.version} is confirmed without probation"
        if not _is_over(device, new, stage):
            took_s = device.executor.decided_s - stage.since_s
            return f"{known.version} is confirmed after {took_s:.1f} s and {stage.answers} of {_least(new, None)}"
        if not new.live_count(known.digest):
            return f"{known.version} is confirmed without a worker"
    return None


def trial_is_not_skipped(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """A candidate takes all requests after each step of its trial, when there was something to compare it with."""
    candidate, before = new.candidate, old.find(old.active)
    if candidate is None or not new.candidate_is_active or old.candidate_is_active or old.candidate is None:
        return None
    if isinstance(event, ev.Booted | ev.RollbackAsked | ev.PinAsked):
        return None  # somebody at the device says so: watched, and at once
    if before is None or before.digest == candidate.digest or not new.live_count(before.digest):
        return None
    if before.interface != candidate.snapshot.interface or old.raising == candidate.digest:
        return None  # not to be compared; or somebody at the device had chosen it already
    known = new.find(candidate.digest)
    if old.candidate.digest != candidate.digest or known is None or known.is_settled:
        return None  # one that was confirmed before may be the next rung of the ladder
    steps = device.ledger.trial_steps if old.in_trial else _least_steps(new)
    stage = device.ledger.stage
    passed = device.ledger.passed | ({stage.percent} if stage and _is_over(device, new, stage) else set())
    missing = [percent for percent in steps if percent not in passed]
    return f"{candidate.snapshot.version} takes all requests without its steps {missing}" if missing else None


def _is_over(device: Device, state: ModelState, stage: Stage) -> bool:
    lasts_s, answers = _least(state, stage.percent)
    return device.executor.decided_s - stage.since_s >= lasts_s - 1e-6 and stage.answers >= answers


def _least(state: ModelState, percent: int | None) -> tuple[float, int]:
    """Seconds and answers that a stage asks for at least: stated here, by the fleet if not held, by the publisher."""
    names = ("probation_s", "probation_requests_min")
    if percent is not None:
        names = ("share_step_s", "share_requests_min") if percent else ("shadow_s", "shadow_requests_min")
    return float(_strictest(state, names[0])), int(_strictest(state, names[1]))


def _strictest(state: ModelState, name: str) -> float:
    stated = getattr(state.settings.policy, name)
    if state.assigned is not None and not state.held:
        over = getattr(state.assigned.policy, name)
        stated = over if over is not None else stated
    return max(stated or 0, getattr(state.minimum, name) or 0)


def _least_steps(state: ModelState) -> tuple[int, ...]:
    shares = state.settings.policy.share_percents or ()
    return (*((0,) if _strictest(state, "shadow_s") > 0 else ()), *sorted(shares))


def damaged_is_not_raised(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """A rung whose bytes are known to be damaged is not brought up."""
    if new.raising is None or new.raising == old.raising or isinstance(event, ev.Booted):
        return None
    known = new.find(new.raising)
    if known is not None and known.damaged and not new.live_count(known.digest):
        return f"{known.version} is damaged and raised"
    return None


def state_is_bounded(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """Everything that grows has its bound."""
    releases = len(device.world.setting.releases)
    sizes = (
        (len(new.quarantine), limits.QUARANTINE_RECORDS_MAX),
        (len(new.refused_offers), limits.REFUSED_OFFERS_MAX),
        (len(new.crashes), limits.CRASHES_REMEMBERED_MAX),
        (len(new.known), releases),
        (len(new.refused_rungs), releases),
        (len(new.live), 4),
        (max((known.unclean_starts for known in new.known), default=0), limits.UNCLEAN_STARTS_MAX + 1),
    )
    over = [size for size, most in sizes if size > most]
    return f"something has {over[0]} entries" if over else None


def climbs_are_bounded(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """Nothing goes round for ever: the device goes back by itself CLIMBS_MAX times in a generation."""
    ledger = device.ledger
    if new.generation != old.generation or isinstance(event, ev.Booted):
        ledger.climbs = 0
    heading = {new.raising, new.active} - {old.raising, old.active, None}
    climbing = isinstance(event, ev.Woke) and old.status is Status.UP and new.wanted in heading
    if climbing and (old.candidate is None or old.candidate.digest != new.wanted):
        ledger.climbs += 1
    return f"{ledger.climbs} ways back in one generation" if ledger.climbs > limits.CLIMBS_MAX else None


def local_choice_holds(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """What somebody chose on the device holds until a higher generation, through every boot."""
    before = device.ledger.saved if isinstance(event, ev.Booted) else old
    if before is None or isinstance(event, _OF_CHOICE):
        return None
    order = (event.epoch, event.generation) if isinstance(event, ev.AssignmentTaken) else None
    if order and (before.assigned is None or order > before.assigned.order):
        return None
    if (before.held and not new.held) or (before.pinned and not new.pinned):
        return "a choice of the device's own is gone"
    return None


def order_never_goes_back(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """An older assignment never takes a newer one's place."""
    before = device.ledger.saved if isinstance(event, ev.Booted) else old
    if before is None or before.assigned is None:
        return None
    if new.assigned is None or new.assigned.order < before.assigned.order:
        return f"{before.assigned.order} was taken"
    return None


def reports_are_whole(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> str | None:
    """While the disk has the present state it has each fact, once and in order."""
    ledger = device.ledger
    if not device.executor.is_saved(MODEL):
        ledger.decided = ledger.decided[-limits.UNTOLD_MAX :]
        return None
    decided, told = ledger.decided, device.store.told
    ledger.decided, device.store.told = [], []
    wanted, there = [id(tell) for tell in decided], [id(tell) for tell in told]
    if wanted == there:
        return None
    if [one for one in there if one in set(wanted)] == wanted and len(set(there)) == len(there):
        return None  # a late write told of something that was refused meanwhile
    lost = [f"{tell.kind.value} {tell.phase or ''}" for tell in decided if id(tell) not in set(there)]
    return f"of {len(wanted)} facts the disk has {len(there)}; missing: {lost}"


Check = Callable[["Device", ModelState, ev.Event, ModelState], str | None]
STEP_CHECKS: tuple[tuple[str, Check], ...] = tuple(
    (check.__name__, check)
    for check in (
        no_fault, strikes_before_loading, serves_what_was_proven, quarantined_is_left_alone, confirmed_in_time,
        keeps_a_last_good, trial_is_not_skipped, damaged_is_not_raised, state_is_bounded, climbs_are_bounded,
        local_choice_holds, order_never_goes_back, reports_are_whole,
    )
)  # fmt: skip


def _keep_stage(device: Device, old: ModelState, event: ev.Event, new: ModelState) -> None:
    """The books of trial and probation, by what was routed when."""
    ledger, candidate, before = device.ledger, new.candidate, device.ledger.stage
    now_s = device.executor.decided_s
    if candidate is None:
        ledger.stage, ledger.passed = None, set()
        return
    if new.in_trial and not (old.in_trial and old.candidate and old.candidate.digest == candidate.digest):
        ledger.trial_steps, ledger.passed = _least_steps(new), set()
    percent = candidate.share_percent if new.in_trial else None
    if before is not None and (before.digest, before.percent) == (candidate.digest, percent):
        if new.in_trial and new.phase is not Phase.TRIAL:
            ledger.stage = None  # it begins anew
        return
    went_on = before is not None and before.digest == candidate.digest and new.in_trial and old.active == new.active
    if went_on and before is not None and before.percent is not None and _is_over(device, old, before):
        ledger.passed.add(before.percent)
    if new.in_trial:
        follows = isinstance(event, ev.TrialRouted) and new.phase is Phase.TRIAL
        ledger.stage = Stage(candidate.digest, percent, now_s) if follows else None
    else:
        serves = new.phase is Phase.PROBATION and new.status is Status.UP
        ledger.stage = Stage(candidate.digest, None, now_s) if serves else None


def _broken(device: Device, name: str, detail: str) -> None:
    device.world.broken(name, f"{device.name}: {detail}")
