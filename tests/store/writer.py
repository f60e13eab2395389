"""A process that takes snapshots in and commits transitions until it is killed; it says on a pipe what is done."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path

from edge_agent.store.agent_db import AgentDb
from edge_agent.store.models_db import ModelsDb
from tests.store.snapshots import content, take_in


def write_for_ever(folder: Path, first: int, said: Connection) -> None:
    """Three newest snapshots are kept; each admission is one transition with two reports."""
    models, agent = ModelsDb(folder / "models.db"), AgentDb(folder / "agent.db")
    said.send(("begun", ""))
    for number in range(first, first + 1_000):
        snapshot = content(f"{number}.0.0", chunks=3, small=number % 2 == 1)
        take_in(models, snapshot)
        said.send(("admitted", snapshot.digest))
        facts = (f"{number}-a".encode(), f"{number}-b".encode())
        agent.commit_transition("tiny", snapshot.digest.encode(), ({"n": number},), facts, number)
        said.send(("told", facts[1].decode()))
        for stored in models.snapshots()[:-3]:
            said.send(("removing", stored.digest))
            models.remove_snapshot(stored.digest)
            models.collect_garbage(2)
    os._exit(3)  # never reached in time: the test kills long before
