"""Opening the store at a boot, whatever became of it: what is whole is kept, what is damaged is set aside and told."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.limits import KIB, MIB
from edge_agent.contract.reasons import Reason
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.models_db import ModelsDb
from edge_agent.store.opening import Opened, heal, open_store
from tests.store.disks import fill, small_disk
from tests.store.snapshots import (
    NOW_MS,
    content,
    flip,
    read_sealed,
    take_in,
    visible,
)

ONE, TWO = content("1.0.0"), content("2.0.0")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with two snapshots and a transition."""
    folder = tmp_path / "state"
    folder.mkdir()
    make_store(folder)
    return folder


def make_store(folder: Path) -> None:
    opened = open_store(folder, NOW_MS)
    assert opened.models and opened.agent
    take_in(opened.models, ONE, TWO)
    opened.agent.commit_transition("tiny", b"document", ({"kind": "serving"},), (b"report",), 1)
    close(opened)


def close(opened: Opened) -> None:
    for database in (opened.models, opened.agent):
        if database is not None:
            database.close()


@pytest.fixture
def reopen() -> Iterator[Callable[[Path], Opened]]:
    """Opens as a boot does; everything is closed at the end."""
    made: list[Opened] = []

    def open_it(folder: Path) -> Opened:
        made.append(open_store(folder, NOW_MS))
        return made[-1]

    yield open_it
    for opened in made:
        close(opened)


Reopen = Callable[[Path], Opened]


def root_page(database: Path, table: str) -> int:
    """Byte offset of the first page of a table or index."""
    models = ModelsDb(database, immutable=True)
    (page,) = models._db.execute("SELECT rootpage FROM sqlite_master WHERE name=?", [table]).fetchone()
    (size,) = models._db.execute("PRAGMA page_size").fetchone()
    models.close()
    return int((page - 1) * size)


def ruin(database: Path, table: str) -> None:
    with database.open("r+b") as raw:
        raw.seek(root_page(database, table))
        raw.write(b"\xff" * 512)


# ---- whole


def test_a_first_start_makes_an_empty_store(tmp_path: Path, reopen: Reopen) -> None:
    opened = reopen(tmp_path / "a" / "b")
    assert opened.models and opened.agent
    assert (opened.read_only, opened.notes, opened.models.snapshots()) == (None, (), ())


def test_a_whole_store_is_opened_without_a_word(state: Path, reopen: Reopen) -> None:
    opened = reopen(state)
    assert opened.models and opened.agent
    assert (opened.read_only, opened.notes) == (None, ())
    assert visible(opened.models) == {ONE.digest, TWO.digest}
    assert opened.agent.states() == {"tiny": b"document"}


# ---- damaged


@pytest.mark.parametrize("table", ["offer", "proof", "sqlite_autoindex_chunk_1", "sqlite_autoindex_snapshot_1"])
def test_damage_beside_the_bytes_costs_no_byte(state: Path, reopen: Reopen, table: str) -> None:
    ruin(state / "models.db", table)
    opened = reopen(state)
    assert opened.models and opened.read_only is None
    if not opened.notes:  # damage in an index shows when it is used: the runtime heals at the next write then
        opened.models, _ = heal(opened.models, NOW_MS)
    assert visible(opened.models) == {ONE.digest, TWO.digest}
    for snapshot in (ONE, TWO):
        assert opened.models.missing_chunks(snapshot.manifest) == ()
        assert read_sealed(opened.models, snapshot, "weights") == snapshot.files["weights"]
    assert (state / "models.db.damaged").is_file(), "kept for whoever wants to look into it"
    assert not (state / "models.db.salvaged").exists()


def test_of_damaged_chunks_only_those_are_lost(state: Path, reopen: Reopen) -> None:
    ruin(state / "models.db", "offer")
    flip(state / "models.db", b"2.0.0-1-")
    opened = reopen(state)
    assert opened.models
    assert "2 snapshots and 6 chunks verified and kept, 1 chunks lost" in opened.notes[-1]
    assert opened.models.missing_chunks(ONE.manifest) == ()
    (lost,) = opened.models.missing_chunks(TWO.manifest)
    assert TWO.chunks()[lost].startswith(b"2.0.0-1-")
    assert reopen(state).notes == (), "the second boot finds a whole store"


def test_a_damaged_row_costs_only_its_own_snapshot(state: Path, reopen: Reopen) -> None:
    ruin(state / "models.db", "proof")
    flip(state / "models.db", b'"version":"2.0.0"')
    opened = reopen(state)
    assert opened.models
    assert visible(opened.models) == {ONE.digest}
    assert read_sealed(opened.models, ONE, "weights") == ONE.files["weights"]


@pytest.mark.parametrize("name", ["models.db", "agent.db"])
@pytest.mark.parametrize("made", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(2000)])
def test_what_is_no_database_is_set_aside_and_begun_anew(state: Path, reopen: Reopen, name: str, made: bytes) -> None:
    (state / name).write_bytes(made)
    opened = reopen(state)
    assert opened.models and opened.agent
    assert (len(opened.models.snapshots()), len(opened.agent.states())) == ((0, 1) if name == "models.db" else (2, 0))
    assert (state / f"{name}.damaged").read_bytes() == made
    assert any(name in note for note in opened.notes)
    assert opened.read_only is None


def test_a_folder_in_the_place_of_a_database_is_set_aside(state: Path, reopen: Reopen) -> None:
    for name in ("models.db", "agent.db"):
        (state / name).unlink()
        (state / name).mkdir()
        (state / name / "something").write_text("x")
    opened = reopen(state)
    assert opened.models and opened.agent
    close(opened)
    assert (state / "models.db.damaged" / "something").is_file()
    for name in ("models.db", "agent.db"):  # and again: the last one is kept
        (state / name).unlink()
        (state / name).mkdir()
    assert reopen(state).models


def test_a_missing_database_takes_nothing_with_it(state: Path, reopen: Reopen) -> None:
    (state / "agent.db").unlink()
    opened = reopen(state)
    assert opened.models and opened.agent
    assert visible(opened.models) == {ONE.digest, TWO.digest}
    assert opened.agent.states() == {}


def test_a_kill_at_any_step_of_a_replacement_loses_nothing(state: Path, reopen: Reopen) -> None:
    """What a kill can leave: the salvaged file half written, whole beside the damaged one, or alone."""
    whole = (state / "models.db").read_bytes()
    ruin(state / "models.db", "offer")
    damaged = (state / "models.db").read_bytes()
    for beside, present in ((whole[: len(whole) // 2], True), (whole, True), (whole, False)):
        (state / "models.db").write_bytes(damaged)
        if not present:
            (state / "models.db").rename(state / "models.db.damaged")
        (state / "models.db.salvaged").write_bytes(beside)
        opened = reopen(state)
        assert opened.models
        assert visible(opened.models) == {ONE.digest, TWO.digest}
        assert opened.models.missing_chunks(TWO.manifest) == ()
        close(opened)


def test_a_broken_database_is_healed_while_in_use(state: Path, reopen: Reopen) -> None:
    models = reopen(state).models
    assert models
    ruin(state / "models.db", "offer")
    fresh, note = heal(models, NOW_MS)
    assert "2 snapshots and 7 chunks verified and kept, 0 chunks lost" in note
    take_in(fresh, content("3.0.0"))
    assert read_sealed(fresh, ONE, "weights") == ONE.files["weights"]
    fresh.close()


def test_random_damage_never_raises_another_error(memory_folder: Path) -> None:
    """Opening never fails at all; what is read is right or named as damage."""
    chance = random.Random(5)
    small = memory_folder / "small"
    small.mkdir()
    opened = open_store(small, NOW_MS)
    assert opened.models and opened.agent
    tiny = content("1.0.0", small=True)
    take_in(opened.models, tiny)
    opened.models.record_proof(tiny.digest, "numpy", "{}", 1)
    for number in range(20):
        opened.agent.commit_transition("tiny", b"%d" % number, ({"n": number},), (b"r",), 1)
    opened.agent.set_meta({"incarnation": "abc", "boot": "3"})
    close(opened)
    for case in range(150):
        damaged = memory_folder / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(small, damaged)
        for name in ("models.db", "agent.db"):
            raw = bytearray((damaged / name).read_bytes())
            used = [at for at in range(0, len(raw), 64) if any(raw[at : at + 64])]
            for _ in range(chance.choice((1, 3, 30))):
                raw[chance.choice(used) + chance.randrange(64)] ^= 1 << chance.randrange(8)
            (damaged / name).write_bytes(raw)
        opened = open_store(damaged, NOW_MS)
        assert opened.models and opened.agent, case
        use_all(opened.models, opened.agent, tiny.digest)
        close(opened)


def use_all(models: ModelsDb, agent: AgentDb, digest: str) -> None:
    """Everything that reads; an error has to be one of ours."""
    tiny = content("1.0.0", small=True)
    uses: list[Callable[[], object]] = [
        models.offers,
        lambda: models.proofs(digest),
        lambda: models.scrub(tiny.manifest, 0, 100),
        lambda: models.missing_chunks(tiny.manifest),
        lambda: read_sealed(models, tiny, "part0") == tiny.files["part0"] or pytest.fail("wrong bytes"),
        lambda: list(models.chunk_rows()),
        models.used_bytes,
        lambda: models.collect_garbage(10),
        agent.states,
        lambda: agent.journal(model=None, newest=100),
        lambda: agent.outbox(oldest=100),
        agent.outbox_count,
        lambda: agent.meta("incarnation"),
        lambda: agent.commit_transition("tiny", b"{}", ({"a": 1},), (b"r",), 1),
    ]
    for snapshot in models.snapshots():
        assert snapshot.digest == digest and snapshot.manifest_raw == tiny.raw
    for use in uses:
        try:
            use()
        except HoldfastError:
            continue


# ---- full


@pytest.mark.parametrize("left_kib", [0, 40, 100, 200, 2_000])
def test_a_boot_on_a_full_disk_reads_everything_and_says_so(tmp_path: Path, reopen: Reopen, left_kib: int) -> None:
    """Whatever room is left: nothing is taken for damage, nothing is set aside."""
    with small_disk(tmp_path / "disk") as disk:
        make_store(disk)
        filler = fill(disk, leave_bytes=left_kib * KIB)
        opened = reopen(disk)
        assert opened.models and opened.agent
        assert opened.read_only in (None, Reason.DISK_FULL)
        assert opened.agent.states() == {"tiny": b"document"}
        assert [entry.entry for entry in opened.agent.journal(model=None, newest=9)] == [{"kind": "serving"}]
        for snapshot in (ONE, TWO):
            assert read_sealed(opened.models, snapshot, "weights") == snapshot.files["weights"]
        assert list(disk.glob("*.damaged")) == []
        close(opened)
        filler.unlink()
        again = reopen(disk)
        assert (again.read_only, again.notes) == (None, ())
        close(again)


def test_damage_on_a_full_disk_is_salvaged_once_there_is_room(tmp_path: Path, reopen: Reopen) -> None:
    with small_disk(tmp_path / "disk") as disk:
        make_store(disk)
        ruin(disk / "models.db", "offer")
        filler = fill(disk, leave_bytes=MIB)
        for _ in range(2):
            opened = reopen(disk)
            assert opened.models and opened.read_only is Reason.DISK_FULL
            assert read_sealed(opened.models, TWO, "weights") == TWO.files["weights"], "it serves meanwhile"
            close(opened)
        filler.unlink()
        opened = reopen(disk)
        assert opened.models and opened.read_only is None
        assert "2 snapshots and 7 chunks verified and kept, 0 chunks lost" in opened.notes[-1]
        close(opened)


def test_healing_on_a_full_disk_leaves_the_old_one_in_use(tmp_path: Path, reopen: Reopen) -> None:
    with small_disk(tmp_path / "disk") as disk:
        make_store(disk)
        models = reopen(disk).models
        assert models
        filler = fill(disk, leave_bytes=MIB)
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                heal(models, NOW_MS)
            assert caught.value.reason is Reason.DISK_FULL
            assert read_sealed(models, ONE, "weights") == ONE.files["weights"]
        filler.unlink()
        fresh, note = heal(models, NOW_MS)
        assert "7 chunks verified and kept" in note
        fresh.close()


# ---- read-only


def test_a_read_only_disk_is_read_and_serves_with_the_newest_transition(
    state: Path, tmp_path: Path, reopen: Reopen
) -> None:
    """The last transition is in the write-ahead log alone, as a kill leaves it."""
    still_open = AgentDb(state / "agent.db")
    still_open.commit_transition("tiny", b"newest", (), (), 2)
    with small_disk(tmp_path / "disk") as disk:
        shutil.copytree(state, disk, dirs_exist_ok=True)
        still_open.close()
        assert (disk / "agent.db-wal").stat().st_size > 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        opened = reopen(disk)
        assert opened.models and opened.agent
        assert opened.read_only is Reason.READ_ONLY
        assert opened.models.immutable and opened.agent.read_only
        assert read_sealed(opened.models, ONE, "weights") == ONE.files["weights"]
        assert opened.agent.states() == {"tiny": b"newest"}
        with pytest.raises(Unavailable) as caught:
            opened.models.drop_offer("x")
        assert caught.value.reason is Reason.READ_ONLY
        close(opened)


def test_damage_on_a_read_only_disk_still_serves_what_verifies(state: Path, tmp_path: Path, reopen: Reopen) -> None:
    ruin(state / "models.db", "offer")
    flip(state / "models.db", b"2.0.0-1-")
    with small_disk(tmp_path / "disk") as disk:
        shutil.copytree(state, disk, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        models = reopen(disk).models
        assert models
        assert read_sealed(models, ONE, "weights") == ONE.files["weights"]
        with pytest.raises(HoldfastError):
            models.open_sealed(TWO.manifest, "weights")
        models.close()


def test_a_first_start_on_a_read_only_disk_says_what_to_do(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(Rejected, match="cannot be written") as caught:
            open_store(disk / "state", NOW_MS)
        assert "state_dir" in caught.value.next_step


def test_a_state_folder_that_is_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(Rejected, match="cannot be written"):
        open_store(tmp_path / "state", NOW_MS)
