"""The plan: which device should run what, recomputed from wanted minus reported each time; pure and total.

What to show of a rollout is `progress`; carrying out the actions is the planner's work (`coordinator`).

For one model of one device the newest rollout that speaks of it counts. A rollout that goes one by one and has not
reached the device yet leaves it with what the next older one gave it: a stuck or halted rollout never blocks a newer
one, and never takes anything away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud_sync.core.fleet import Device, Fleet, Halt, Rollout, Strategy, Target
from edge_agent.contract.reasons import Reason

# A device that turned the snapshot away for one of these has judged the snapshot; other words (a torn file, a lapsed
# signature, an offer out of order) speak of how it was brought, and it is brought again.
JUDGED = frozenset(
    {
        Reason.WRONG_SLOT,
        Reason.INCOMPATIBLE,
        Reason.BELOW_FLOOR,
        Reason.VERSION_CONFLICT,
        Reason.QUARANTINED,
        Reason.INTERFACE_CHANGE,
        Reason.TOO_LARGE,
    }
)


@dataclass(frozen=True, slots=True)
class Assign:
    """Give this device these targets, in place of all that it had."""

    device_id: str
    models: Mapping[str, Target]


@dataclass(frozen=True, slots=True)
class HaltRollout:
    """Stop this rollout for good, and remember why."""

    rollout_id: str
    halt: Halt


Action = Assign | HaltRollout


def plan(fleet: Fleet, rollouts: Iterable[Rollout], now_s: float) -> tuple[Action, ...]:
    """What has to be done now; nothing when everything is as wanted. Order: halts, then devices by id."""
    newest_first = sorted(counting(rollouts), key=lambda rollout: -rollout.number)
    halts: list[HaltRollout] = []
    turns: dict[str, frozenset[str]] = {}
    for rollout, members in governed(fleet, newest_first):
        if rollout.strategy is Strategy.ONE and rollout.halted is None:
            turns[rollout.rollout_id], halt = _step(rollout, members, now_s)
            if halt is not None:
                halts.append(HaltRollout(rollout.rollout_id, halt))
    wishes = _Wishes(newest_first)
    assigns = [
        Assign(device.device_id, models)
        for _, device in sorted(fleet.devices.items())
        if (models := _wanted(device, wishes, turns)) is not None and _differs(device, models, fleet.epoch)
    ]
    return (*halts, *assigns)


def governed(fleet: Fleet, newest_first: Sequence[Rollout]) -> Iterable[tuple[Rollout, tuple[Device, ...]]]:
    """Each rollout with the devices for which it is the newest one of its model, by id."""
    taken: dict[str, set[str]] = {}
    for rollout in newest_first:
        above = taken.setdefault(rollout.model, set())
        named = fleet.devices if rollout.devices is None else rollout.devices & fleet.devices.keys()
        devices = (fleet.devices[device_id] for device_id in sorted(named))
        members = tuple(d for d in devices if rollout.covers(d) and d.device_id not in above)
        above.update(device.device_id for device in members)
        yield rollout, members


def standing(rollouts: Iterable[Rollout]) -> tuple[Rollout, ...]:
    """Those that are not superseded, oldest first: newer ones do not speak of all devices that they speak of."""
    return _uncovered(rollouts, frozenset(Strategy))


def counting(rollouts: Iterable[Rollout]) -> tuple[Rollout, ...]:
    """Those that may still give a device its target, oldest first: superseded ones too, if the newer one goes one
    by one and may never reach everybody.
    """
    return _uncovered(rollouts, frozenset({Strategy.ALL}))


def _uncovered(rollouts: Iterable[Rollout], covering: frozenset[Strategy]) -> tuple[Rollout, ...]:
    """Without those of whose devices newer ones with such a strategy speak too."""
    closed: set[str] = set()
    named: dict[str, set[str]] = {}
    found: list[Rollout] = []
    for rollout in sorted(rollouts, key=lambda one: -one.number):
        above = named.setdefault(rollout.model, set())
        if rollout.model in closed or (rollout.devices is not None and rollout.devices <= above):
            continue
        found.append(rollout)
        if rollout.strategy not in covering:
            continue
        if rollout.devices is None:
            closed.add(rollout.model)
        else:
            above |= rollout.devices
    return tuple(reversed(found))


def reached(rollout: Rollout, device: Device) -> bool:
    """Whether this device was given the rollout's target, and nothing newer since."""
    return device.assigned.get(rollout.model) == rollout.target()


def confirmed(rollout: Rollout, device: Device) -> bool:
    """Whether the device serves the snapshot, and does not only try it."""
    slot = device.slots.get(rollout.model)
    return slot is not None and slot.active == rollout.digest and slot.candidate is None


def failure(rollout: Rollout, device: Device) -> Halt | None:
    """Why the device does not take the snapshot in this rollout (not: in an earlier one); None while it may."""
    slot = device.slots.get(rollout.model)
    if slot is None or slot.generation != rollout.generation:
        return None
    for turned in slot.turned_away:
        told_before = (device.device_id, turned.reason) in rollout.refused_before
        if turned.digest == rollout.digest and (turned.blocked or (turned.reason in JUDGED and not told_before)):
            return Halt(device.device_id, turned.reason)
    if slot.held and slot.active != rollout.digest:
        return Halt(device.device_id, Reason.OPERATOR)
    return None


def refusals(fleet: Fleet, model: str, digest: str) -> frozenset[tuple[str, str]]:
    """(device, reason) of every refusal of this snapshot that is told now: of one that is wished again, old news."""
    return frozenset(
        (device_id, turned.reason)
        for device_id, device in fleet.devices.items()
        if model in device.slots
        for turned in device.slots[model].turned_away
        if turned.digest == digest and not turned.blocked
    )


def _step(rollout: Rollout, members: Sequence[Device], now_s: float) -> tuple[frozenset[str], Halt | None]:
    """Devices whose turn it is, of a rollout that goes one by one; or why it goes no further."""
    for device in members:
        halt = failure(rollout, device)
        if halt is not None and reached(rollout, device):
            return frozenset(), halt
    online = [device for device in members if device.online(now_s)]  # who is away blocks nobody, and has its turn later
    if any(reached(rollout, device) and not confirmed(rollout, device) for device in online):
        return frozenset(), None  # also when somebody with an earlier name is back: one at a time
    turns: set[str] = set()
    for device in online:
        if not reached(rollout, device):
            turns.add(device.device_id)
        if not confirmed(rollout, device):
            break
    return frozenset(turns), None


class _Wishes:
    """Rollouts by the devices that they speak of: a large fleet with many rollouts to single ones is planned soon."""

    def __init__(self, newest_first: Sequence[Rollout]) -> None:
        self._all: dict[str, list[Rollout]] = {}
        self._named: dict[tuple[str, str], list[Rollout]] = {}
        for rollout in newest_first:
            if rollout.devices is None:
                self._all.setdefault(rollout.model, []).append(rollout)
            for device_id in rollout.devices or ():
                self._named.setdefault((rollout.model, device_id), []).append(rollout)

    def of(self, model: str, device_id: str) -> Sequence[Rollout]:
        """Those of this model that speak of this device, newest first."""
        for_all, named = self._all.get(model, []), self._named.get((model, device_id), [])
        return sorted([*for_all, *named], key=lambda rollout: -rollout.number) if named else for_all


def _wanted(device: Device, wishes: _Wishes, turns: Mapping[str, frozenset[str]]) -> Mapping[str, Target] | None:
    """All targets of a device; None when nobody ever wished anything for it."""
    wanted: dict[str, Target] = {}
    for model in sorted(device.models):
        for rollout in wishes.of(model, device.device_id):
            at_once = rollout.strategy is Strategy.ALL
            if at_once or reached(rollout, device) or device.device_id in turns.get(rollout.rollout_id, frozenset()):
                wanted[model] = rollout.target()
                break
    return wanted if wanted or device.assigned else None


def _differs(device: Device, models: Mapping[str, Target], epoch: int) -> bool:
    """Whether the device has to be told: it has another target, of another coordinator, or is ahead of what we gave."""
    ahead = device.told_revision > device.revision
    return dict(device.assigned) != dict(models) or ((device.epoch != epoch or ahead) and bool(models))
