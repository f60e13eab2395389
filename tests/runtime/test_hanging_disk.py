"""The executor on a disk that hangs or is slow: safety goes on in memory and is written later; offers wait.

A disk that refuses to write: test_executor.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from tests.runtime.slot import FACTORY, MODEL, ONE, SETTINGS, TWO, Slot, play, serve_two


async def left_twice_by_hand_and_by_damage(slot: Slot) -> None:
    """From 2.0.0 down: damage, its workers die, then the operator goes on to the factory snapshot."""
    await slot.feed(ev.DamageFound(MODEL, TWO.digest, 1))
    await slot.lose_workers(TWO)
    assert slot.state.active == ONE.digest
    await slot.feed(ev.RollbackAsked(MODEL, FACTORY.version))
    assert slot.state.active == FACTORY.digest and set(slot.device.workers.values()) == {FACTORY.digest}


async def until_saved(slot: Slot) -> None:
    async with asyncio.timeout(20):
        seen = slot.executor.changes
        while slot.executor.storage_reason is not None:  # ends with the time-out
            seen = await slot.executor.wait_change(seen, 20)


@pytest.mark.parametrize("in_the_end", ["written", "refused"])
def test_a_disk_that_hangs_is_no_outage_and_gets_everything_once_it_answers(tmp_path: Path, in_the_end: str) -> None:
    """The write that hung may still succeed or fail: each fact is told once and in order."""

    async def story(slot: Slot) -> None:
        await serve_two(slot)
        saved = slot.on_disk()
        slot.store.answers.clear()
        if in_the_end == "refused":
            slot.store.refused = {slot.store.writes + 1}
        await left_twice_by_hand_and_by_damage(slot)
        assert slot.on_disk() == saved and not slot.executor.is_saved(MODEL)
        assert slot.executor.storage_reason is Reason.DISK_HANGS
        other = replace(TWO, digest="3" * 64, version="3.0.0")
        step = await slot.executor.post(ev.OfferBegun(MODEL, other, complete=False, retry=False))
        assert step.refusal is not None and step.refusal.reason is Reason.DISK_HANGS
        slot.store.answers.set()
        await until_saved(slot)
        assert slot.executor.storage_reason is None and slot.persisted_is_present()

    async def undisturbed_story(slot: Slot) -> None:
        await serve_two(slot)
        await left_twice_by_hand_and_by_damage(slot)

    hung, undisturbed_slot = play(tmp_path / "hung", story), play(tmp_path / "undisturbed", undisturbed_story)
    try:
        assert hung.facts() == undisturbed_slot.facts()
        assert hung.device.actions == undisturbed_slot.device.actions
    finally:
        hung.end()
        undisturbed_slot.end()


def test_an_offer_waits_for_a_slow_disk_while_nothing_about_safety_waits(tmp_path: Path) -> None:
    async def story(slot: Slot) -> None:
        await slot.feed(ev.Booted(MODEL, SETTINGS, (FACTORY,), ()))
        slot.store.answers.clear()
        asyncio.get_running_loop().call_later(limits.PERSIST_S * 1.5, slot.store.answers.set)
        step = await slot.executor.post(ev.OfferBegun(MODEL, ONE, complete=False, retry=False))
        assert step.refusal is None and slot.persisted_is_present()

    play(tmp_path, story).end()


@pytest.mark.parametrize("urgent", [ev.RollbackAsked(MODEL, None), ev.Woke(MODEL)])
def test_what_is_about_safety_does_not_wait_for_an_offer_that_waits_for_the_disk(
    tmp_path: Path, urgent: ev.Event
) -> None:
    """The offer is refused; when the disk has taken it after all, the state that counts is written over it."""

    async def story(slot: Slot) -> None:
        await serve_two(slot)
        slot.store.answers.clear()
        other = replace(TWO, digest="3" * 64, version="3.0.0", release=4)
        offered = slot.executor.post(ev.OfferBegun(MODEL, other, complete=False, retry=False))
        async with asyncio.timeout(limits.PERSIST_PATIENT_S * 0.8):
            await slot.feed(urgent)
        refusal = (await offered).refusal
        assert refusal is not None and refusal.reason is Reason.DISK_HANGS
        assert slot.state.candidate is None
        slot.store.answers.set()
        await until_saved(slot)
        assert slot.executor.is_saved(MODEL) and slot.persisted_is_present()

    play(tmp_path, story).end()
