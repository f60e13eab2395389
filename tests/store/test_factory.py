"""The factory file: whole or not there, read-only, and good for the last rung."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.store.factory import write_factory
from edge_agent.store.models_db import ModelsDb
from tests.store.disks import small_disk
from tests.store.snapshots import EVIDENCE, NOW_MS, Content, content, read_sealed

ONE = content()


def write(out: Path, snapshot: Content, chunks: list[tuple[str, bytes]] | None = None) -> None:
    given: Iterator[tuple[str, bytes]] = iter(snapshot.chunks().items() if chunks is None else chunks)
    write_factory(out, snapshot.digest, snapshot.manifest, snapshot.raw, EVIDENCE, given, NOW_MS)


def test_a_factory_file_holds_one_snapshot_and_is_read_only(tmp_path: Path) -> None:
    out = tmp_path / "factory.db"
    write(out, ONE)
    assert stat.S_IMODE(out.stat().st_mode) == 0o444
    factory = ModelsDb(out, immutable=True)
    (stored,) = factory.snapshots()
    assert (stored.digest, stored.manifest_raw, stored.evidence_raw) == (ONE.digest, ONE.raw, EVIDENCE)
    assert {path: read_sealed(factory, ONE, path) for path in ONE.files} == ONE.files
    assert [entry.name for entry in tmp_path.iterdir()] == ["factory.db"]


def test_it_is_never_written_over(tmp_path: Path) -> None:
    out = tmp_path / "factory.db"
    write(out, ONE)
    before = out.read_bytes()
    with pytest.raises(Rejected, match="exists already") as caught:
        write(out, content("2.0.0"))
    assert "--renew" in caught.value.next_step
    assert out.read_bytes() == before


def test_a_missing_or_wrong_chunk_leaves_nothing_behind(tmp_path: Path) -> None:
    chunks = list(ONE.chunks().items())
    wrong = [(chunks[0][0], b"other bytes"), *chunks[1:]]
    for given, reason in ((chunks[:-1], Reason.TRUNCATED), (wrong, Reason.CHUNK_MISMATCH)):
        with pytest.raises(HoldfastError) as caught:
            write(tmp_path / "factory.db", ONE, given)
        assert caught.value.reason is reason
        assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "factory.db.new").write_bytes(b"half of one")
    write(tmp_path / "factory.db", ONE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["factory.db"]


def test_a_disk_that_is_too_small_says_so_and_keeps_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kib=1024) as disk:
        with pytest.raises(Unavailable) as caught:
            write(disk / "factory.db", ONE)
        assert caught.value.reason is Reason.DISK_FULL
        assert list(disk.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        write(tmp_path / "nowhere" / "factory.db", ONE)
