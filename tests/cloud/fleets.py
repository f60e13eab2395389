"""Small fleets and rollouts for tests of planning, and hypothesis strategies that draw them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from cloud_sync.core.fleet import Device, Fleet, Halt, Rollout, Slot, Strategy, Target, Turned
from cloud_sync.core.plan import Action, Assign, HaltRollout

OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64
VERSIONS = {OLD: "1.0.0", NEW: "1.1.0", OTHER: "1.2.0"}


def device(name: str, *, online: bool = True, assigned: Target | None = None, slot: Slot | None = None) -> Device:
    """A device that runs `m`, heard of at 0 s, told by epoch 1."""
    return Device(
        name,
        connected=online,
        heard_s=0.0,
        models=frozenset({"m"}),
        slots={"m": slot} if slot else {},
        epoch=1 if assigned else 0,
        revision=1 if assigned else 0,
        assigned={"m": assigned} if assigned else {},
    )


def fleet(*devices: Device) -> Fleet:
    """These devices, with a coordinator of epoch 1."""
    return Fleet({one.device_id: one for one in devices}, epoch=1)


def rollout(number: int, digest: str = NEW, strategy: Strategy = Strategy.ALL, *names: str, **more: object) -> Rollout:
    """A rollout of `m`, to these devices or to all."""
    made = Rollout(
        f"r{number}", number, "m", VERSIONS[digest], digest, number, 0, strategy,
        devices=frozenset(names) if names else None,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def carried_out(before: Fleet, rollouts: list[Rollout], actions: tuple[Action, ...]) -> tuple[Fleet, list[Rollout]]:
    """The fleet and rollouts after these actions, as the planner writes them."""
    devices: dict[str, Device] = dict(before.devices)
    for action in actions:
        if isinstance(action, Assign):
            one = devices[action.device_id]
            revision = max(one.revision, one.told_revision) + 1
            devices[action.device_id] = replace(one, assigned=action.models, epoch=before.epoch, revision=revision)
        elif isinstance(action, HaltRollout):
            rollouts = [
                replace(one, halted=one.halted or action.halt) if one.rollout_id == action.rollout_id else one
                for one in rollouts
            ]
    return replace(before, devices=devices), rollouts


def obedient(before: Fleet, *, failing: Mapping[str, str] | None = None) -> Fleet:
    """Every device that is connected has taken what it was assigned: it serves it, or turned it away for the reason."""
    devices = {}
    for name, one in before.devices.items():
        target = one.assigned.get("m")
        if target is None or not one.connected:
            devices[name] = one
        elif name in (failing or {}):
            was = one.slots.get("m", Slot())
            turned = (Turned(target.digest, (failing or {})[name], blocked=True),)
            devices[name] = replace(
                one, slots={"m": replace(was, generation=target.generation, turned_away=turned, candidate=None)}
            )
        else:
            devices[name] = replace(one, slots={"m": Slot(active=target.digest, generation=target.generation)})
    return replace(before, devices=devices)


digests = st.sampled_from([OLD, NEW, OTHER])
names = st.sampled_from(["d1", "d2", "d3", "d4"])
reasons = st.sampled_from(["proof", "load_crash", "incompatible", "signature", "busy", "a word of tomorrow"])
turned = st.builds(Turned, digests, reasons, st.booleans())
slots = st.builds(
    Slot,
    active=st.none() | digests,
    candidate=st.none() | digests,
    phase=st.sampled_from(["", "fetching", "probation", "a phase of tomorrow"]),
    generation=st.integers(0, 6),
    held=st.booleans(),
    turned_away=st.lists(turned, max_size=3).map(tuple),
)
targets = st.builds(lambda digest, n: Target(digest, VERSIONS[digest], n), digests, st.integers(1, 6))
models = st.sampled_from([frozenset(), frozenset({"m"}), frozenset({"m", "n"})])


@st.composite
def devices(draw: st.DrawFn, name: str) -> Device:
    """Anything that a device may have told and been given, consistent or not."""
    return Device(
        name,
        connected=draw(st.booleans()),
        heard_s=draw(st.sampled_from([0.0, -1_000.0])),
        models=draw(models),
        slots=draw(st.dictionaries(st.sampled_from(["m", "n"]), slots, max_size=2)),
        epoch=draw(st.integers(0, 2)),
        revision=draw(st.integers(0, 5)),
        told_revision=draw(st.integers(0, 7)),
        assigned=draw(st.dictionaries(st.sampled_from(["m", "n"]), targets, max_size=2)),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Up to four devices."""
    return Fleet({name: draw(devices(name)) for name in draw(st.sets(names))}, epoch=draw(st.integers(1, 2)))


@st.composite
def rollout_lists(draw: st.DrawFn) -> list[Rollout]:
    """Up to six rollouts, in the order of their numbers; generations grow with them."""
    found = []
    for number in range(1, draw(st.integers(0, 6)) + 1):
        digest = draw(digests)
        found.append(
            Rollout(
                f"r{number}", number, draw(st.sampled_from(["m", "n"])), VERSIONS[digest], digest, number, 0,
                draw(st.sampled_from(Strategy)), devices=draw(st.none() | st.frozensets(names, min_size=1)),
                halted=draw(st.none() | st.builds(Halt, names, reasons)),
            )
        )  # fmt: skip
    return found
