"""The executor: saved before acted on, safe without a disk, bounded, awake in time. What is decided is tested in core.

A whole story (import, probation, damage, fallback, repair, rollback) is played once for every write that it makes,
with that write refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract import limits
from edge_agent.contract.errors import Bug, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.actions import Tell
from edge_agent.core.state import ModelState, Moment, Phase, Settings, persistent_part
from edge_agent.runtime.executor import Executor
from tests.runtime.slot import FACTORY, MODEL, ONE, SETTINGS, TWO, Device, Slot, play, serve_two


async def whole_story(slot: Slot) -> None:
    """On the factory snapshot; 1.0.0 and 2.0.0 come in; 2.0.0 is damaged and left, mended and climbed to, left."""
    await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
    await slot.bring_in(ONE)
    await slot.bring_in(TWO)
    await slot.feed(ev.DamageFound(MODEL, TWO.digest, 3))
    assert slot.state.active == TWO.digest, "loaded bytes go on serving"
    await slot.lose_workers(TWO)
    assert slot.state.active == ONE.digest
    await slot.feed(ev.Repaired(MODEL, TWO.digest))
    assert slot.state.active == TWO.digest
    await slot.feed(ev.OfferRefused(MODEL, "9" * 64, "9.0.0", Reason.SIGNATURE, "not ours"))
    await slot.feed(ev.RollbackAsked(MODEL, None))
    assert slot.state.active == ONE.digest
    await slot.feed(ev.Woke(MODEL))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    slot = play(tmp_path_factory.mktemp("undisturbed"), whole_story)
    yield slot
    slot.end()


def test_everything_is_saved_before_anything_is_done(undisturbed: Slot) -> None:
    """At each action the disk had the state that asks for it; replayed, as the device itself read it then."""
    device = undisturbed.device
    assert len(device.actions) > 20
    present: list[ModelState | None] = []

    class Watching(Device):
        def act(self, action: object) -> None:
            present.append(persistent_part(slot.state))
            super().act(action)  # type: ignore[arg-type]

    async def watched(watched_slot: Slot) -> None:
        nonlocal slot
        slot = watched_slot
        slot.device = Watching(slot.on_disk)
        slot.executor._actor = slot.device
        await whole_story(slot)

    slot = undisturbed
    folder = undisturbed._path.parent / "watched"
    slot = play(folder, watched)
    assert slot.device.saved == present
    assert slot.device.actions == device.actions
    assert slot.device.facts_saved == sorted(slot.device.facts_saved), "facts are there before the act, too"
    assert slot.device.facts_saved == device.facts_saved
    slot.end()


def test_the_story_is_told_once_and_in_order(undisturbed: Slot) -> None:
    facts = undisturbed.facts()
    confirmed = [fact[1] for fact in facts if fact[2] == "confirmed"]
    kinds = [fact[0] for fact in facts]
    assert confirmed == ["1.0.0", "2.0.0"]
    assert kinds.index("damage") < kinds.index("repaired") < kinds.index("refused")
    assert undisturbed.persisted_is_present()


def test_any_one_write_may_fail(undisturbed: Slot, tmp_path: Path) -> None:
    """For every write: safety goes on, other events are refused and change nothing, and in the end all is told."""
    went_on = 0
    for refused in range(1, undisturbed.store.writes + 1):
        slot = play(tmp_path / str(refused), whole_story, {refused})
        try:
            assert slot.store.writes >= undisturbed.store.writes
            assert slot.executor.storage_reason is None
            assert slot.facts() == undisturbed.facts(), f"write {refused} was refused"
            assert slot.device.actions == undisturbed.device.actions
            assert slot.state == undisturbed.state and slot.persisted_is_present()
            went_on += not slot.refusals
        finally:
            slot.end()
    assert 0 < went_on < undisturbed.store.writes, "both kinds of events met a full disk"


def test_a_disk_that_stays_full_is_no_outage(tmp_path: Path) -> None:
    """From any write on nothing can be saved: the device leaves what is bad, and tells it all when there is room."""

    async def fallback(slot: Slot) -> None:
        await serve_two(slot)
        slot.store.refused = range(slot.store.writes + 1, 1_000_000)
        saved = slot.on_disk()
        await slot.feed(ev.DamageFound(MODEL, TWO.digest, 1))
        await slot.lose_workers(TWO)
        await slot.feed(ev.DamageFound(MODEL, ONE.digest, 1))
        await slot.lose_workers(ONE)
        assert slot.state.active == FACTORY.digest and set(slot.device.workers.values()) == {FACTORY.digest}
        assert slot.on_disk() == saved
        assert slot.executor.storage_reason is Reason.DISK_FULL
        other = replace(TWO, digest="3" * 64, version="3.0.0")
        before, actions = slot.state, list(slot.device.actions)
        for asked in (
            ev.OfferBegun(MODEL, other, complete=False, retry=False),
            ev.OfferRefused(MODEL, other.digest, other.version, Reason.SIGNATURE, "not ours"),
        ):
            step = await slot.executor.post(asked)
            assert step.refusal is not None and step.refusal.reason is Reason.DISK_FULL
            assert (slot.state, slot.device.actions) == (before, actions)
        slot.store.refused = ()
        await slot.feed(ev.Woke(MODEL))
        assert slot.executor.storage_reason is None and slot.persisted_is_present()

    slot = play(tmp_path, fallback)
    told = slot.facts()
    slot.end()
    assert [fact[1] for fact in told if fact[0] == "damage"] == ["2.0.0", "1.0.0"]
    serving = [fact[1] for fact in told if fact[0] == "serving" and fact[1]]
    assert serving[-2:] == ["1.0.0", "0.9.0"]


def test_facts_that_wait_for_the_disk_are_bounded(tmp_path: Path) -> None:
    async def story(slot: Slot) -> None:
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY, ONE), ()))
        slot.store.refused = range(slot.store.writes + 1, 1_000_000)
        for number in range(limits.UNTOLD_MAX):
            factory = replace(FACTORY, damaged=number % 2 == 0)
            await slot.executor.post(ev.Booted(MODEL, SETTINGS, (factory, ONE), ()))
        slot.device.outcomes.clear()
        before = len(slot.facts())
        slot.store.refused = ()
        await slot.feed(ev.Woke(MODEL))
        assert len(slot.facts()) == before + limits.UNTOLD_MAX

    play(tmp_path, story).end()


def test_a_refusal_of_the_core_changes_nothing_and_writes_nothing(tmp_path: Path) -> None:
    async def story(slot: Slot) -> None:
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
        before, writes, acted = slot.state, slot.store.writes, len(slot.device.actions)
        for event in (ev.OfferCompleted(MODEL, "9" * 64), ev.RollbackAsked(MODEL, "7.7.7")):
            assert slot.executor.would_refuse(event) is not None
            step = await slot.executor.post(event)
            assert step.refusal is not None
            assert (slot.state, slot.store.writes, len(slot.device.actions)) == (before, writes, acted)

    play(tmp_path, story).end()


def test_what_changes_nothing_worth_saving_is_not_written(tmp_path: Path) -> None:
    """Deaths and rebirths of spares must not wear a flash disk out."""

    async def story(slot: Slot) -> None:
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
        writes = slot.store.writes
        for _ in range(5):
            slot.device.end(list(slot.device.workers)[-1])
            await slot.feed(slot.device.outcomes.pop(0))
        assert slot.store.writes == writes and len(slot.device.workers) == 2

    play(tmp_path, story).end()


# ---- bugs


def test_a_bug_ends_the_executor_before_it_is_saved_or_acted_on(tmp_path: Path) -> None:
    """A state that breaks an invariant: here a store that knows one snapshot twice."""
    slots = []

    async def story(slot: Slot) -> None:
        slots.append(slot)
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY, FACTORY), ()))

    with pytest.raises(ExceptionGroup) as caught:
        play(tmp_path, story)
    (bug,) = caught.value.exceptions
    assert isinstance(bug, Bug) and "known twice" in bug.message
    assert slots[0].store.writes == 0 and slots[0].device.actions == []


# ---- time


async def until_confirmed(slot: Slot) -> None:
    async with asyncio.timeout(20):
        seen = slot.executor.changes
        while slot.state.candidate is not None:  # ends with the time-out
            seen = await slot.executor.wait_change(seen, 20)


def test_the_core_is_woken_when_it_asked_to_be(tmp_path: Path) -> None:
    """Nobody posts `Woke` here: probation ends by itself."""

    async def story(slot: Slot) -> None:
        loop = asyncio.get_running_loop()
        slot.executor._clock = lambda: Moment(loop.time(), 1_900_000_000_000)
        await slot.feed(
            ev.Booted(MODEL, Settings(msgspec.structs.replace(SETTINGS.policy, probation_s=0.05)), (FACTORY,), ())
        )
        await slot.feed(ev.OfferBegun(MODEL, ONE, complete=False, retry=False))
        await slot.feed(ev.OfferCompleted(MODEL, ONE.digest))
        assert slot.state.phase is Phase.PROBATION
        await until_confirmed(slot)
        assert slot.state.wanted == ONE.digest

    play(tmp_path, story).end()


def test_a_disk_that_somebody_else_found_full_is_tried_again(tmp_path: Path) -> None:
    async def story(slot: Slot) -> None:
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
        writes = slot.store.writes
        slot.executor.note_storage(Reason.DISK_FULL)
        assert slot.executor.storage_reason is Reason.DISK_FULL
        async with asyncio.timeout(20):
            seen = slot.executor.changes
            while slot.executor.storage_reason is not None:  # ends with the time-out
                seen = await slot.executor.wait_change(seen, 20)
        assert slot.store.writes == writes + 1

    play(tmp_path, story).end()


def test_waiting_for_a_change_ends_with_it_or_with_the_time(tmp_path: Path) -> None:
    async def story(slot: Slot) -> None:
        seen = slot.executor.changes
        assert await slot.executor.wait_change(seen, 0.01) == seen
        waiting = asyncio.create_task(slot.executor.wait_change(seen, 20))
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
        assert await waiting > seen

    play(tmp_path, story).end()


# ---- bounds


class SlowStore:
    """Writes only when it is let."""

    def __init__(self) -> None:
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    async def commit(self, state: ModelState, event: ev.Event, told: tuple[Tell, ...], now: Moment) -> None:
        """Wait, and keep nothing."""
        self.begun.set()
        await self.let.wait()


def test_a_flood_of_events_is_refused_and_ends_nothing() -> None:
    """Also when the core is to be woken while the queue is full."""

    async def story() -> None:
        store = SlowStore()
        executor = Executor(store, Device(lambda: (None, 0)), lambda: Moment(1.0, 1), [ModelState(MODEL)])
        running = asyncio.create_task(executor.run())
        booted = ev.Booted(MODEL, SETTINGS, (FACTORY,), ())
        first = executor.post(booted)
        await store.begun.wait()
        waiting = [executor.post(ev.Woke(MODEL)) for _ in range(limits.EVENTS_WAITING_MAX)]
        with pytest.raises(Unavailable, match="too many events"):
            executor.post(booted)
        executor.note_storage(Reason.DISK_FULL)  # asks for a wake-up
        for _ in range(5):
            await asyncio.sleep(0)
        assert not running.done(), running
        store.let.set()
        steps = await asyncio.gather(first, *waiting)
        assert all(step.refusal is None for step in steps)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())


def test_whoever_stops_waiting_for_an_event_stops_nothing(tmp_path: Path) -> None:
    async def story(slot: Slot) -> None:
        slot.executor.post(ev.Booted(MODEL, SETTINGS, (FACTORY,), ())).cancel()
        await slot.feed(ev.Woke(MODEL))
        assert slot.state.known == (FACTORY,)

    play(tmp_path, story).end()


def test_a_candidate_goes_on_when_a_step_of_its_own_cannot_be_saved(tmp_path: Path) -> None:
    """What happened on the device is not forgotten for want of room: no candidate hangs until a restart."""

    async def story(slot: Slot) -> None:
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
        await slot.feed(ev.OfferBegun(MODEL, ONE, complete=False, retry=False))
        slot.store.refused = {slot.store.writes + 2}  # the write after OfferCompleted: VerifyPassed
        await slot.feed(ev.OfferCompleted(MODEL, ONE.digest))

    slot = play(tmp_path, story)
    assert slot.refusals == []
    assert slot.state.active == ONE.digest and slot.state.phase is Phase.PROBATION
    slot.end()
