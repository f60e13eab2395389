"""agent.db: a transition is one transaction; numbers of reports have no holes; everything stays within its bound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.contract import limits
from edge_agent.contract.errors import Unavailable
from edge_agent.store.agent_db import AgentDb


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentDb]:
    opened = AgentDb(tmp_path / "agent.db")
    yield opened
    opened.close()


def commit(agent: AgentDb, document: bytes = b"{}", *, told: int = 1, model: str = "tiny") -> None:
    """A transition that tells so many facts."""
    entries: tuple[dict[str, Any], ...] = tuple({"fact": number} for number in range(told))
    agent.commit_transition(model, document, entries, tuple(b"fact %d" % number for number in range(told)), 5)


def numbers(agent: AgentDb) -> list[int]:
    return [number for number, _ in agent.outbox(oldest=limits.OUTBOX_REPORTS_MAX * 2)]


def years_of_silence(agent: AgentDb, *, telemetry_every: int = 0) -> None:
    """Journal and outbox as full as they may be; numbers begin with 1."""
    with agent._db.atomic():
        agent._db.execute(
            "INSERT INTO outbox(number, telemetry, body)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?1)"
            " SELECT i, ?2 > 0 AND i % ?2 = 0, x'00' FROM n",
            [limits.OUTBOX_REPORTS_MAX, telemetry_every],
        )
        agent._db.execute(
            "INSERT INTO journal(number, at_unix_ms, model, entry) SELECT number, 1, 'tiny', '{}' FROM outbox"
            " WHERE number<=?",
            [limits.JOURNAL_ENTRIES_MAX],
        )


def limit_pages(agent: AgentDb, more: int) -> None:
    (pages,) = agent._db.execute("PRAGMA page_count").fetchone()
    agent._db.execute(f"PRAGMA max_page_count={pages + more}").fetchall()


def test_state_journal_and_reports_come_back_after_a_restart(agent: AgentDb) -> None:
    commit(agent, b'{"a":1}', told=2)
    commit(agent, b'{"a":2}', told=1)
    commit(agent, b'{"b":1}', told=0, model="other")
    agent.close()
    again = AgentDb(agent.path)
    assert again.states() == {"tiny": b'{"a":2}', "other": b'{"b":1}'}
    assert [entry.entry["fact"] for entry in again.journal(model="tiny", newest=10)] == [0, 1, 0]
    assert again.outbox(oldest=10) == ((1, b"fact 0"), (2, b"fact 1"), (3, b"fact 0"))
    again.close()


def test_the_journal_gives_the_newest_lines_oldest_first(agent: AgentDb) -> None:
    for number in range(5):
        agent.commit_transition("ab"[number % 2], b"{}", ({"n": number},), (), 100 + number)
    lines = agent.journal(model=None, newest=2)
    assert [(line.number, line.at_unix_ms, line.model, line.entry) for line in lines] == [
        (4, 103, "b", {"n": 3}),
        (5, 104, "a", {"n": 4}),
    ]
    assert [line.entry["n"] for line in agent.journal(model="b", newest=10)] == [1, 3]


def test_a_transition_that_does_not_fit_leaves_nothing_behind(agent: AgentDb) -> None:
    """State, journal and outbox together: a full disk in the middle is as if it had never been tried."""
    commit(agent, b"before", told=2)
    limit_pages(agent, 1)
    big = b"x" * 100_000
    with pytest.raises(Unavailable):
        agent.commit_transition("tiny", b"after", ({"fact": "lost"},) * 3, (b"small", big, big), 6)
    assert agent.states() == {"tiny": b"before"}
    assert len(agent.journal(model=None, newest=100)) == 2
    limit_pages(agent, 1000)
    commit(agent, told=2)
    assert numbers(agent) == [1, 2, 3, 4], "the failed transaction used up no number"


def test_numbers_go_on_after_everything_was_acknowledged(agent: AgentDb) -> None:
    commit(agent, told=3)
    agent.acknowledge(2)
    assert numbers(agent) == [3]
    agent.acknowledge(3)
    assert agent.outbox_count() == 0
    agent.close()
    again = AgentDb(agent.path)
    commit(again, told=2)
    assert numbers(again) == [4, 5], "a number is never given twice"
    again.close()


def test_the_oldest_reports_are_read_first(agent: AgentDb) -> None:
    commit(agent, told=5)
    assert [number for number, _ in agent.outbox(oldest=2)] == [1, 2]


def test_a_device_that_nobody_hears_keeps_bounded_books(agent: AgentDb) -> None:
    years_of_silence(agent)
    for _ in range(3):
        commit(agent, told=50)
    told = numbers(agent)
    assert len(told) == agent.outbox_count() == limits.OUTBOX_REPORTS_MAX
    assert told == list(range(151, limits.OUTBOX_REPORTS_MAX + 151)), "the newest are kept, without holes"
    lines = agent.journal(model=None, newest=2 * limits.JOURNAL_ENTRIES_MAX)
    assert len(lines) == limits.JOURNAL_ENTRIES_MAX
    assert (lines[0].number, lines[-1].number) == (151, limits.JOURNAL_ENTRIES_MAX + 150)


def test_telemetry_goes_before_facts_when_the_outbox_is_full(agent: AgentDb) -> None:
    years_of_silence(agent, telemetry_every=4_000)
    commit(agent, told=4)
    told = set(numbers(agent))
    assert {4_000, 8_000, 1, 2}.isdisjoint(told), "two of telemetry, then the two oldest facts"
    assert len(told) == limits.OUTBOX_REPORTS_MAX and 3 in told


def test_boots_are_counted_across_restarts(agent: AgentDb) -> None:
    assert agent.next_boot() == 1
    agent.close()
    again = AgentDb(agent.path)
    assert [again.next_boot(), again.next_boot()] == [2, 3]
    assert (again.meta("boot"), again.meta("never set")) == ("3", None)
    again.close()


def test_small_values_are_set_together_or_not_at_all(agent: AgentDb) -> None:
    agent.set_meta({"a": "1"})
    limit_pages(agent, 1)
    with pytest.raises(Unavailable):
        agent.set_meta({"a": "2", "b": "x" * 200_000})
    assert (agent.meta("a"), agent.meta("b")) == ("1", None)


def test_an_older_agent_goes_on_with_a_newer_database(agent: AgentDb) -> None:
    commit(agent, b"newer", told=1)
    agent._db.executescript(
        "ALTER TABLE outbox ADD COLUMN topic TEXT; ALTER TABLE state ADD COLUMN epoch INTEGER DEFAULT 0;"
        "CREATE TABLE high_water(key TEXT PRIMARY KEY); PRAGMA user_version=9;"
    )
    agent.close()
    older = AgentDb(agent.path)
    assert older.states() == {"tiny": b"newer"}
    commit(older, b"older", told=1)
    assert (older.states(), numbers(older)) == ({"tiny": b"older"}, [1, 2])
    assert older._db.execute("PRAGMA user_version").fetchone() == (9,)
    older.close()
