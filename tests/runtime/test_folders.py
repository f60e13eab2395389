"""Where the agent's sockets lie: found by commands of any user, private, refused when somebody else was there first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import Rejected
from edge_agent.folders import is_writable, make_run_folder, run_folders


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / ("a-long-name-" * 12)  # longer than the path of a unix socket may be
    folder.mkdir()
    yield folder
    for made in run_folders(folder):
        if made.is_symlink():
            made.unlink()
        elif made.exists():
            made.rmdir()


def test_the_folder_is_private_short_and_not_on_the_disk_of_the_state(state_dir: Path) -> None:
    folder = make_run_folder(state_dir)
    assert folder == run_folders(state_dir)[0] == make_run_folder(state_dir), "again is harmless"
    assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o700, os.getuid())
    assert not folder.is_relative_to(state_dir)
    assert len(os.fsencode(folder / "worker-0123456789ab.sock")) <= 107


def test_two_state_folders_have_two(state_dir: Path, tmp_path: Path) -> None:
    assert set(run_folders(state_dir)).isdisjoint(run_folders(tmp_path))


def test_the_next_place_is_used_and_then_refused_when_others_were_there_first(state_dir: Path, tmp_path: Path) -> None:
    first, second = run_folders(state_dir)
    first.symlink_to(tmp_path)
    assert make_run_folder(state_dir) == second
    second.chmod(0o755)
    with pytest.raises(Rejected, match="not a private folder") as refused:
        make_run_folder(state_dir)
    assert str(first) in refused.value.message and refused.value.next_step


def test_a_users_sockets_are_not_where_a_logout_clears_them(state_dir: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("giving a folder to another user needs root")
    os.chown(state_dir, 1000, 1000)
    assert [folder.parent.name for folder in run_folders(state_dir)][-1] == "shm"


def test_writing_is_tried_not_asked(tmp_path: Path) -> None:
    assert is_writable(tmp_path)
    assert not is_writable(Path("/proc"))
    assert not is_writable(tmp_path / "missing")
