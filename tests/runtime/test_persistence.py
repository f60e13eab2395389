"""What the executor's store makes of a transition, and of an agent.db that is missing, old, damaged or read-only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from edge_agent.contract import limits
from edge_agent.contract.errors import Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind, parse_report
from edge_agent.core import events as ev
from edge_agent.core.actions import Tell
from edge_agent.core.state import Candidate, ModelState, Moment, Phase, Quarantine, Status, persistent_part
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.saved_state import decode_state, encode_state
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.thread import StoreThread
from tests.runtime.slot import FACTORY, MODEL, ONE, SETTINGS, TWO

Result = TypeVar("Result")
NOW = Moment(5.0, 1_900_000_000_000)
STATE = ModelState(
    MODEL,
    SETTINGS,
    Status.UP,
    active=ONE.digest,
    wanted=ONE.digest,
    known=(FACTORY, replace(ONE, confirmed_unix_ms=7)),
    candidate=Candidate(TWO, Phase.FETCHING, 3, previous=ONE.digest),
    quarantine=(Quarantine("9" * 64, "9.0.0", 0, Reason.PROOF, "output differs", 4),),
    fallback_reason=Reason.DAMAGE,
)
TELL = Tell(MODEL, ReportKind.SERVING, ONE.digest, "1.0.0", phase="up", reason=Reason.DAMAGE, detail="why")


def with_store(path: Path, agent: AgentDb | None, story: Callable[[AgentStore], Awaitable[Result]]) -> Result:
    thread = StoreThread()
    try:
        return asyncio.run(_coroutine(story(AgentStore(thread, path, agent, "device"))))
    finally:
        thread.end()


async def _coroutine(story: Awaitable[Result]) -> Result:
    return await story


def booted(path: Path) -> tuple[int, dict[str, ModelState]]:
    """The number of a boot on this database, and the states that it finds."""

    async def story(store: AgentStore) -> tuple[int, dict[str, ModelState]]:
        return await store.begin(), await store.states()

    agent = AgentDb(path)
    try:
        return with_store(path, agent, story)
    finally:
        agent.close()


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    agent = AgentDb(path)
    with_store(path, agent, lambda store: store.commit(STATE, ev.Woke(MODEL), (), NOW))
    agent.close()
    assert booted(path) == (1, {MODEL: persistent_part(STATE)})
    assert booted(path)[0] == 2


def test_facts_of_a_boot_are_not_kept_across_it() -> None:
    state = replace(STATE, stage_ends_s=17.0, retry_at_s=3.0, refused_rungs=("a",))
    assert decode_state(encode_state(state)) == persistent_part(STATE)


def test_a_state_of_a_later_agent_is_read(tmp_path: Path) -> None:
    """Fields that this agent does not know are passed over."""
    document = json.loads(encode_state(STATE))
    document["trial_share_ratio"] = 0.5
    document["candidate"]["shadow"] = {"answers": 7}
    assert decode_state(json.dumps(document).encode()) == persistent_part(STATE)


@pytest.mark.parametrize("name", ["invariant", "type", "bytes", "name"])
def test_a_state_that_cannot_be_believed_is_left_to_what_verifies(tmp_path: Path, name: str) -> None:
    document = json.loads(encode_state(STATE))
    if name == "invariant":
        document["active"] = "7" * 64
    elif name == "type":
        document["generation"] = "three"
    elif name == "name":
        document["model"] = "another"
    raw = b"\xff\xfe{" if name == "bytes" else json.dumps(document).encode()
    path = tmp_path / "agent.db"
    agent = AgentDb(path)
    agent.commit_transition(MODEL, raw, (), (), 1)
    agent.commit_transition("other", encode_state(ModelState("other")), (), (), 1)
    agent.close()
    assert booted(path) == (1, {"other": ModelState("other")}), "the other slot loses nothing"


def test_a_fact_is_a_journal_line_and_a_numbered_report(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    agent = AgentDb(path)
    event = ev.BringUpFailed(MODEL, TWO.digest, Reason.PROOF, "x" * 5_000)

    async def story(store: AgentStore) -> int:
        await store.begin()
        long = replace(TELL, detail="d" * 5_000, digest="not a digest")
        await store.commit(STATE, event, (TELL, long), NOW)
        assert [line.entry["kind"] for line in await store.journal(MODEL, 10)] == ["serving", "serving"]
        return await store.outbox_count()

    assert with_store(path, agent, story) == 2
    (_, first), (_, second) = agent.outbox(oldest=10)
    report = parse_report(first)
    assert (report.device_id, report.incarnation) == ("device", agent.meta("incarnation"))
    assert (report.kind, report.digest, report.version) == (ReportKind.SERVING, ONE.digest, "1.0.0")
    assert (report.phase, report.reason, report.detail, report.at_unix_ms) == ("up", "damage", "why", NOW.unix_ms)
    assert (parse_report(second).digest, len(parse_report(second).detail)) == (None, limits.DETAIL_CHARS_MAX)
    line = agent.journal(model=MODEL, newest=1)[0].entry
    assert (line["event"], line["cause"]["reason"]) == ("BringUpFailed", "proof")
    assert len(line["cause"]["detail"]) == limits.DETAIL_CHARS_MAX
    agent.close()


def test_the_incarnation_stays_until_the_database_is_lost(tmp_path: Path) -> None:
    def incarnation(path: Path) -> str | None:
        booted(path)
        agent = AgentDb(path)
        found = agent.meta("incarnation")
        agent.close()
        return found

    first, again = incarnation(tmp_path / "a.db"), incarnation(tmp_path / "a.db")
    assert first == again is not None
    assert incarnation(tmp_path / "b.db") != first, "numbers begin anew, so the key has to be another one"


def test_without_a_database_nothing_is_known_and_writing_is_tried_each_time(tmp_path: Path) -> None:
    """As on a disk that was full or read-only at the boot."""
    path = tmp_path / "later" / "agent.db"

    async def story(store: AgentStore) -> None:
        assert (await store.begin(), await store.states(), await store.outbox_count()) == (0, {}, 0)
        assert await store.journal(None, 10) == ()
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await store.commit(STATE, ev.Woke(MODEL), (TELL,), NOW)
            assert caught.value.reason is Reason.READ_ONLY
        path.parent.mkdir()
        await store.commit(STATE, ev.Woke(MODEL), (TELL,), NOW)
        assert await store.outbox_count() == 1
        assert len(await store.journal(MODEL, 10)) == 1

    with_store(path, None, story)
    agent = AgentDb(path)
    ((_, body),) = agent.outbox(oldest=10)
    assert parse_report(body).incarnation == agent.meta("incarnation") is not None
    agent.close()
    assert booted(path)[1] == {MODEL: persistent_part(STATE)}


def test_a_read_only_database_is_read_and_left_as_soon_as_it_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    booted(path)
    read_only = AgentDb(path, read_only=True)

    async def story(store: AgentStore) -> None:
        assert await store.begin() == 1, "this boot cannot be counted"
        await store.commit(STATE, ev.Woke(MODEL), (TELL,), NOW)
        assert await store.states() == {MODEL: persistent_part(STATE)}

    with_store(path, read_only, story)
    assert booted(path)[0] == 2


def test_a_boot_number_that_is_damaged_stops_no_boot(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    agent = AgentDb(path)
    agent.set_meta({"boot": "n0 number"})
    agent.commit_transition(MODEL, encode_state(STATE), (), (), 1)
    agent.close()
    assert booted(path) == (0, {MODEL: persistent_part(STATE)})


def test_reports_name_their_incarnation_even_if_the_boot_found_no_room(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    agent = AgentDb(path)

    async def story(store: AgentStore) -> None:
        # For this boot alone the table of small values takes nothing.
        agent._db.execute("CREATE TRIGGER full BEFORE INSERT ON meta BEGIN SELECT RAISE(ABORT, 'no room'); END")
        assert await store.begin() == 0
        agent._db.execute("DROP TRIGGER full")
        await store.commit(STATE, ev.Woke(MODEL), (TELL,), NOW)

    with_store(path, agent, story)
    ((_, body),) = agent.outbox(oldest=10)
    assert parse_report(body).incarnation == agent.meta("incarnation") is not None
    agent.close()
