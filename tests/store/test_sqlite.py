"""The settings with which databases are really opened, and foreign errors in our words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.store.agent_db import AgentDb
from edge_agent.store.models_db import ModelsDb
from edge_agent.store.sqlite import PAGE_BYTES, connect, row, translated
from tests.store.snapshots import content, offer, take_in

FULL = 2  # PRAGMA synchronous, https://sqlite.org/pragma.html#pragma_synchronous
ONE = content()


def pragma(opened: ModelsDb | AgentDb, name: str) -> object:
    (value,) = row(opened._db, f"PRAGMA {name}") or (None,)
    return value


@pytest.mark.parametrize("times", [1, 2])
def test_models_db_has_a_rollback_journal_and_waits_for_the_disk(tmp_path: Path, times: int) -> None:
    """Asked of the connection that writes, when the file is new and when it is not."""
    for _ in range(times - 1):
        ModelsDb(tmp_path / "models.db").close()
    models = ModelsDb(tmp_path / "models.db")
    assert (pragma(models, "journal_mode"), pragma(models, "synchronous")) == ("delete", FULL)
    assert (pragma(models, "page_size"), pragma(models, "auto_vacuum")) == (PAGE_BYTES, 2)
    models.close()


@pytest.mark.parametrize("times", [1, 2])
def test_agent_db_has_a_write_ahead_log_and_waits_for_the_disk(tmp_path: Path, times: int) -> None:
    for _ in range(times - 1):
        AgentDb(tmp_path / "agent.db").close()
    agent = AgentDb(tmp_path / "agent.db")
    assert (pragma(agent, "journal_mode"), pragma(agent, "synchronous")) == ("wal", FULL)
    agent.close()


def test_the_files_themselves_say_how_they_are_written(tmp_path: Path) -> None:
    """Bytes 18 and 19 of the header: 1 rollback journal, 2 write-ahead log; 64: incremental auto-vacuum."""
    take_in(ModelsDb(tmp_path / "models.db"), ONE)
    AgentDb(tmp_path / "agent.db").set_meta({"a": "b"})
    models, agent = ((tmp_path / name).read_bytes()[:100] for name in ("models.db", "agent.db"))
    assert (models[18], models[19], agent[18], agent[19]) == (1, 1, 2, 2)
    assert int.from_bytes(models[52:56], "big") > 0 and int.from_bytes(models[64:68], "big") == 1


def test_a_whole_chunk_waits_in_memory_for_its_commit(tmp_path: Path) -> None:
    """Pages that do not fit there are written before it, which takes two more syncs for each chunk."""
    models = ModelsDb(tmp_path / "models.db")
    chunk = bytes(limits.CHUNK_BYTES)
    before = (tmp_path / "models.db").stat().st_size
    with models._db.atomic():
        models.put_chunk(sha256_hex(chunk), chunk)
        assert (tmp_path / "models.db").stat().st_size == before
    assert (tmp_path / "models.db").stat().st_size >= before + limits.CHUNK_BYTES
    models.close()


def test_while_a_transaction_is_open_its_journal_is_on_the_disk(tmp_path: Path) -> None:
    models = ModelsDb(tmp_path / "models.db")
    take_in(models, ONE)
    with models._db.atomic():
        models._db.execute("DELETE FROM snapshot")
        assert (tmp_path / "models.db-journal").stat().st_size > 0
    assert not (tmp_path / "models.db-journal").exists()


def test_immutable_reads_and_never_writes(tmp_path: Path) -> None:
    path = tmp_path / "models.db"
    take_in(ModelsDb(path), ONE)
    before = path.read_bytes()
    models = ModelsDb(path, immutable=True)
    assert models.snapshots()[0].digest == ONE.digest
    with pytest.raises(Unavailable) as caught:
        offer(models, content("2.0.0"))
    assert caught.value.reason is Reason.READ_ONLY
    models.close()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["models.db"]


@pytest.mark.parametrize("made", [b"", b"SQLite format 3\0", b"\0" * 4096, b"<html>", bytes(range(256)) * 400])
def test_what_is_no_database_is_corrupt_or_new_but_never_another_error(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "models.db"
    path.write_bytes(made)
    try:
        ModelsDb(path).close()
    except Corrupt as error:
        assert error.reason is Reason.DAMAGE and error.message.startswith("models.db")
    else:
        assert made == b"", "an empty file is a new database, nothing else is"


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        connect(tmp_path / "nowhere" / "a.db", journal="DELETE")
    assert caught.value.reason is Reason.READ_ONLY


def test_a_database_in_use_elsewhere_is_unavailable_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "models.db"
    models = ModelsDb(path)
    models._db.execute("PRAGMA busy_timeout=1").fetchall()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="in use by another process"):
        offer(models, ONE)
    other.execute("ROLLBACK")
    other.close()
    offer(models, ONE)
    assert models.offers()[0][0] == ONE.digest


def test_our_own_errors_pass_unchanged() -> None:
    ours = Rejected("as it was", reason=Reason.MALFORMED)
    with pytest.raises(HoldfastError) as caught, translated("a.db"):
        raise ours
    assert caught.value is ours


def test_a_foreign_error_keeps_its_cause(tmp_path: Path) -> None:
    database = connect(tmp_path / "a.db", journal="DELETE")
    with pytest.raises(Corrupt, match=r"a\.db is damaged \(no such table: t\)") as caught, translated("a.db"):
        database.execute("SELECT * FROM t")
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


def test_what_is_too_large_for_a_row_is_refused(tmp_path: Path) -> None:
    database = connect(tmp_path / "a.db", journal="DELETE")
    database.conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    with pytest.raises(Rejected) as caught, translated("a.db"):
        database.execute("SELECT zeroblob(2000)")
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_write_after_one_that_failed_is_kept(tmp_path: Path) -> None:
    """The first write of all meets a disk that cannot be written: what follows is not lost for it."""
    models, agent = ModelsDb(tmp_path / "models.db"), AgentDb(tmp_path / "agent.db")
    for opened in (models, agent):
        opened._db.execute("PRAGMA query_only=1").fetchall()
    with pytest.raises(Unavailable):
        offer(models, ONE)
    with pytest.raises(Unavailable):
        agent.set_meta({"a": "b"})
    for opened in (models, agent):
        opened._db.execute("PRAGMA query_only=0").fetchall()
    offer(models, ONE)
    agent.set_meta({"a": "b"})
    assert (models.offers()[0][0], agent.meta("a")) == (ONE.digest, "b")
    models.close()
    agent.close()
