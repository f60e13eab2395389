"""kill -9 of a writing process at many moments: what is visible is whole, what was said to be done is done.

A lost write of the disk itself is not tested here.
"""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

from edge_agent.contract.manifest import parse_manifest
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.models_db import ModelsDb
from tests.store import writer

KILLS = 30
STEPS = 12  # said by the writer: about three snapshots, of which the older ones are removed
SPAN_S = 0.01  # after the last of them, about one step


def killed_after(folder: Path, first: int, steps: int, moment_s: float) -> list[tuple[str, str]]:
    """Let a process do so many steps and go on for a moment, kill it, and give what it had said until then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["edge_agent.cli", "edge_agent.runtime.app"]
    )  # one server for all tests: tests.harness
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=writer.write_for_ever, args=(folder, first, sender))
    child.start()
    sender.close()
    said = []
    try:
        for _ in range(1 + steps):
            assert receiver.poll(30), "the writer says nothing"
            said.append(receiver.recv())
        child.join(moment_s)
        assert child.exitcode is None, f"the writer ended by itself with {child.exitcode}"
    finally:
        child.kill()
        child.join()
    try:
        while receiver.poll(0):  # ends with what the pipe holds
            said.append(receiver.recv())
    except EOFError:
        pass
    return said


def check_models(folder: Path, said: list[tuple[str, str]], story: object) -> int:
    """Every visible snapshot has every byte; the newest admission that was said is there. How many are visible."""
    models = ModelsDb(folder / "models.db")
    snapshots = {snapshot.digest: parse_manifest(snapshot.manifest_raw) for snapshot in models.snapshots()}
    for digest, manifest in snapshots.items():
        assert models.missing_chunks(manifest) == (), (story, manifest.label())
        assert models.scrub(manifest, 0, 1_000).damaged == (), (story, digest)
    removed = {digest for what, digest in said if what == "removing"}
    for digest in {digest for what, digest in said if what == "admitted"} - removed:
        assert digest in snapshots, (story, "an admission that was said to be done is gone")
    assert models._db.execute("PRAGMA quick_check").fetchone() == ("ok",), story
    models.close()
    return len(snapshots)


def check_agent(folder: Path, said: list[tuple[str, str]], story: object) -> None:
    """Two reports and one journal line a transition, numbers without holes, nothing lost that was said."""
    agent = AgentDb(folder / "agent.db")
    reports = agent.outbox(oldest=100_000)
    assert [number for number, _ in reports] == list(range(1, len(reports) + 1)), story
    bodies = [body.decode() for _, body in reports]
    assert all(a.removesuffix("-a") == b.removesuffix("-b") for a, b in zip(bodies[::2], bodies[1::2], strict=True)), (
        story
    )
    assert len(agent.journal(model=None, newest=100_000)) == len(reports) // 2, story
    assert {fact for what, fact in said if what == "told"} <= set(bodies), story
    agent.close()


def test_kill_9_of_a_writer_leaves_no_visible_snapshot_without_its_chunks(memory_folder: Path) -> None:
    chance = random.Random(11)
    hot_journals = admitted = 0
    for kill in range(KILLS):
        steps, moment_s = chance.randrange(STEPS), chance.random() * SPAN_S
        said = killed_after(memory_folder, 1_000 * (kill + 1), steps, moment_s)
        hot_journals += (memory_folder / "models.db-journal").exists()
        admitted += sum(what == "admitted" for what, _ in said)
        check_models(memory_folder, said, (kill, steps, moment_s))
        check_agent(memory_folder, said, (kill, steps, moment_s))
    print(f"{KILLS} kills, {admitted} admissions before them, {hot_journals} in the middle of a transaction")
    assert admitted > KILLS // 3, "the kills came before anything was done"
