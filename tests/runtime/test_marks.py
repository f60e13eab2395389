"""High-water marks: metadata that was seen once makes older metadata old for good, whatever became of the offer."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edge_agent.client import AdminClient
from edge_agent.config import load_config
from edge_agent.contract.errors import Unavailable
from edge_agent.contract.evidence import encode_evidence
from edge_agent.contract.reasons import Reason
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.runtime.marks import FILE_NAME, AssignmentMark, Marks, Seen, decode_marks, encode_marks
from edge_agent.runtime.persistence import AgentStore
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.small_file import NEW_SUFFIX
from edge_agent.store.thread import StoreThread
from edge_agent.trust.verified import TufVersions
from tests.harness.agent import Agent
from tests.harness.fixtures import NewAgent
from tests.harness.releases import Releases
from tests.publishing import for_device_type

NONE = TufVersions()
SEEN = TufVersions(root=1, timestamp=7, tuf_snapshot=6, targets=5)
COPIES = {"neither": (), "the mirror": (FILE_NAME,), "agent.db": ("agent.db", "agent.db-wal", "agent.db-shm")}


def with_marks(folder: Path, story: Callable[[Marks], Awaitable[None]], in_evidence: TufVersions = NONE) -> TufVersions:
    """Boot in this folder, and play the story; the marks at its end."""

    async def run() -> TufVersions:
        marks = Marks(thread, AgentStore(thread, agent.path, agent, "d"), folder)
        await marks.load(in_evidence)
        await story(marks)
        return marks.seen.tuf

    thread, agent = StoreThread(), AgentDb(folder / "agent.db")
    try:
        return asyncio.run(run())
    finally:
        thread.end()
        agent.close()


async def nothing(marks: Marks) -> None:
    """A boot alone."""


async def sees(marks: Marks) -> None:
    await marks.remember(SEEN)


def remove(folder: Path, copy: str) -> None:
    for name in COPIES[copy]:
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize("copy", COPIES)
def test_marks_outlive_a_restart_and_the_loss_of_either_copy(tmp_path: Path, copy: str) -> None:
    with_marks(tmp_path, sees)
    remove(tmp_path, copy)
    assert with_marks(tmp_path, nothing) == SEEN


@pytest.mark.parametrize(("first", "then"), [("the mirror", "agent.db"), ("agent.db", "the mirror")])
def test_a_lost_copy_is_made_again_at_the_next_boot(tmp_path: Path, first: str, then: str) -> None:
    with_marks(tmp_path, sees)
    remove(tmp_path, first)
    with_marks(tmp_path, nothing)
    remove(tmp_path, then)
    assert with_marks(tmp_path, nothing) == SEEN


@pytest.mark.parametrize("content", [b"", b"x" * 5_000, encode_marks(Seen(SEEN)).replace(b"7", b"9"), b"[]\n"])
def test_a_damaged_mirror_is_not_believed(tmp_path: Path, content: bytes) -> None:
    with_marks(tmp_path, sees)
    (tmp_path / FILE_NAME).write_bytes(content)
    assert with_marks(tmp_path, nothing) == SEEN
    assert decode_marks((tmp_path / FILE_NAME).read_bytes()) == Seen(SEEN), "written again"


def test_a_folder_in_the_place_of_the_mirror_is_damage_too(tmp_path: Path) -> None:
    with_marks(tmp_path, sees)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).mkdir()
    (tmp_path / FILE_NAME / "inside").touch()
    assert with_marks(tmp_path, nothing) == SEEN
    assert (tmp_path / FILE_NAME).is_file()


def test_a_damaged_value_in_the_database_is_not_believed(tmp_path: Path) -> None:
    with_marks(tmp_path, sees)
    agent = AgentDb(tmp_path / "agent.db")
    agent.set_meta({"tuf_versions": encode_marks(Seen(SEEN)).decode().replace("7", "9")})
    agent.close()
    assert with_marks(tmp_path, nothing) == SEEN


def test_the_evidence_of_stored_snapshots_counts_too(tmp_path: Path) -> None:
    assert with_marks(tmp_path, nothing, in_evidence=SEEN) == SEEN
    assert with_marks(tmp_path, nothing) == SEEN, "also after that snapshot is gone"


@pytest.mark.parametrize("blocked", ["agent.db", FILE_NAME])
def test_what_cannot_be_kept_twice_is_refused_until_it_can(tmp_path: Path, blocked: str) -> None:
    """In memory it counts already: the runtime that saw it takes nothing older, saved or not."""

    async def story(marks: Marks) -> None:
        if blocked == FILE_NAME:
            (tmp_path / (FILE_NAME + NEW_SUFFIX)).mkdir()  # nothing can be written under this name
        else:
            marks._store._agent._db.execute("PRAGMA query_only=1").fetchall()  # type: ignore[union-attr]
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await marks.remember(SEEN)
            assert caught.value.reason is Reason.READ_ONLY
        assert marks.seen.tuf == SEEN
        if blocked == FILE_NAME:
            (tmp_path / (FILE_NAME + NEW_SUFFIX)).rmdir()
        else:
            marks._store._agent._db.execute("PRAGMA query_only=0").fetchall()  # type: ignore[union-attr]
        await marks.remember(SEEN)

    with_marks(tmp_path, story)
    remove(tmp_path, "the mirror" if blocked == "agent.db" else "agent.db")
    assert with_marks(tmp_path, nothing) == SEEN


def begin_only(agent: Agent, bundle_path: Path) -> None:
    """Offer evidence and manifest, and go away before the first chunk."""
    with BundleReader(bundle_path) as bundle, AdminClient(load_config(agent.config_file)) as client:
        client.ask("offer_piece", encode_evidence(bundle.evidence), document="evidence")
        client.ask("offer_piece", bundle.manifest_raw, document="manifest")
        assert client.ask("offer_begin", retry=False, model="tiny", version="x")[0]["wanted"] > 0


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("how", ["refused", "dropped"])
def test_older_metadata_is_not_taken_after_newer_was_offered(
    new_agent: NewAgent, releases: Releases, short_folder: Path, how: str, copy: str
) -> None:
    """Newer metadata came with an offer that left no snapshot here; then the runtime is killed and a copy is lost."""
    older, version = releases.all["1.0.0"].bundle, f"5.0.0-{how}-{list(COPIES).index(copy)}"
    agent = new_agent().start_and_wait()
    if how == "refused":
        newer = for_device_type(releases.publisher, older, short_folder / "newer", "jetson-orin", version)
        refused = agent.cli("import", str(newer), "--json")
        assert '"reason": "incompatible"' in refused.stdout, refused.stderr
    else:
        begin_only(agent, releases.publish(version).bundle)
    agent.kill_runtime()
    remove(agent.state_dir, copy)
    agent.start_and_wait()
    done = agent.cli("import", str(older), "--json")
    assert done.returncode == 1
    assert '"reason": "metadata_rollback"' in done.stdout, done.stdout + done.stderr
    assert agent.model("tiny")["active"]["version"] == "0.9.0"


def test_a_snapshot_that_is_here_is_repaired_with_older_metadata_too(new_agent: NewAgent, releases: Releases) -> None:
    one = releases.all["1.0.0"]
    agent = new_agent().start_and_wait()
    assert agent.cli("import", str(one.bundle)).returncode == 0
    begin_only(agent, releases.publish("5.1.0").bundle)
    done = agent.cli("import", str(one.bundle))
    assert done.returncode == 0, done.stderr
    assert os.path.exists(agent.state_dir / FILE_NAME)


def test_an_assignment_that_was_taken_stays_taken(tmp_path: Path) -> None:
    mark = AssignmentMark(2, 9, "d" * 64)

    async def take(marks: Marks) -> None:
        await marks.remember_assignment(mark)
        await marks.remember_assignment(AssignmentMark(2, 8, "e" * 64))
        await marks.remember(SEEN)

    async def check(marks: Marks) -> None:
        assert marks.seen == Seen(SEEN, mark)

    with_marks(tmp_path, take)
    (tmp_path / FILE_NAME).unlink()
    with_marks(tmp_path, check)


def test_marks_of_an_earlier_version_are_read() -> None:
    line = '{"root": 1, "targets": 5, "timestamp": 7, "tuf_snapshot": 6}'
    raw = f"{line}\n{hashlib.sha256(line.encode()).hexdigest()}\n".encode()
    assert decode_marks(raw) == Seen(SEEN)
