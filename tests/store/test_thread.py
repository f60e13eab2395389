"""The store thread: one piece of work at a time, safety before bulk, bounded, and errors come back to who asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from edge_agent.contract import limits
from edge_agent.contract.errors import Corrupt, Unavailable
from edge_agent.store.thread import Priority, StoreThread


@pytest.fixture
def thread() -> Iterator[StoreThread]:
    made = StoreThread()
    yield made
    made.end()


def test_work_is_done_on_one_other_thread(thread: StoreThread) -> None:
    async def several() -> list[int]:
        return await asyncio.gather(*(thread.call(threading.get_ident) for _ in range(20)))

    used = set(asyncio.run(several()))
    assert len(used) == 1 and threading.get_ident() not in used


def test_safety_goes_before_bulk_and_equals_keep_their_order(thread: StoreThread) -> None:
    gate, done = threading.Event(), []

    async def story() -> None:
        first = asyncio.create_task(thread.call(gate.wait))
        await asyncio.sleep(0)
        order = (Priority.BULK, Priority.NORMAL, Priority.SAFETY, Priority.BULK, Priority.SAFETY)
        rest = [
            asyncio.create_task(thread.call(done.append, (priority, number), priority=priority))
            for number, priority in enumerate(order)
        ]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *rest)

    asyncio.run(story())
    assert done == [
        (Priority.SAFETY, 2),
        (Priority.SAFETY, 4),
        (Priority.NORMAL, 1),
        (Priority.BULK, 0),
        (Priority.BULK, 3),
    ]


def test_an_error_comes_back_and_the_thread_goes_on(thread: StoreThread) -> None:
    def damaged() -> None:
        raise Corrupt("as found")

    async def story() -> int:
        for wrong in (damaged, lambda: 1 // 0, lambda: [][1]):
            with pytest.raises((Corrupt, ZeroDivisionError, IndexError)):
                await thread.call(wrong)
        return await thread.call(lambda: 7)

    assert asyncio.run(story()) == 7


def test_too_much_work_is_refused_not_piled_up(thread: StoreThread) -> None:
    begun, gate = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        gate.wait()

    async def story() -> int:
        running = asyncio.create_task(thread.call(busy))
        await asyncio.to_thread(begun.wait)
        waiting = [asyncio.create_task(thread.call(int)) for _ in range(limits.STORE_WORK_WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too much work"):
            await thread.call(int, priority=Priority.SAFETY)
        gate.set()
        await asyncio.gather(running, *waiting)
        return await thread.call(lambda: 1)

    assert asyncio.run(story()) == 1


def test_whoever_stops_waiting_disturbs_nobody(thread: StoreThread) -> None:
    gate, done = threading.Event(), []

    async def story() -> None:
        leaving = asyncio.create_task(thread.call(gate.wait))
        await asyncio.sleep(0)
        leaving.cancel()
        gate.set()
        await thread.call(done.append, "later")

    asyncio.run(story())
    assert done == ["later"]


def test_the_end_waits_for_what_was_asked() -> None:
    thread, done, gate = StoreThread(), [], threading.Event()

    async def story() -> None:
        tasks = [asyncio.create_task(thread.call(gate.wait))]
        tasks += [asyncio.create_task(thread.call(done.append, n, priority=Priority.BULK)) for n in range(5)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.to_thread(thread.end)
        await asyncio.gather(*tasks)

    asyncio.run(story())
    assert done == [0, 1, 2, 3, 4]
