"""Sealed memory files: what was verified is what is loaded, and nobody can come between."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from edge_agent.contract.limits import MIB
from edge_agent.store.memfd import ALL_SEALS, SealedFile
from tests.store.snapshots import open_memory_files


def sealed(*pieces: bytes) -> int:
    with SealedFile("test") as made:
        for piece in pieces:
            made.write(piece)
        return made.seal()


def map_writable(fd: int) -> None:
    mmap.mmap(fd, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_SHARED)


def reopen_and_write(fd: int) -> None:
    """By its name in /proc, as a worker with other ideas might."""
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        os.pwrite(again, b"x", 0)
    finally:
        os.close(again)


CHANGES: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.pwrite(fd, b"x", 0),
    "append": lambda fd: os.pwrite(fd, b"x", 8),
    "shrink": lambda fd: os.ftruncate(fd, 3),
    "grow": lambda fd: os.ftruncate(fd, 100),
    "map": map_writable,
    "reopen": reopen_and_write,
    "unseal": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
    "punch a hole": lambda fd: os.posix_fallocate(fd, 0, 100),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_sealed_file_cannot_be_changed(change: str) -> None:
    fd = sealed(b"verified")
    try:
        with pytest.raises(OSError) as caught:
            CHANGES[change](fd)
        assert caught.value.errno == errno.EPERM
        assert os.pread(fd, 100, 0) == b"verified"
    finally:
        os.close(fd)


def test_another_process_reads_it_and_cannot_change_it_either() -> None:
    fd = sealed(b"verified")
    code = (
        "import os, sys; fd = int(sys.argv[1]); print(open('/proc/self/fd/%d' % fd).read())\n"
        "try: os.pwrite(fd, b'x', 0)\nexcept PermissionError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(fd)], pass_fds=[fd], capture_output=True, text=True, timeout=60, check=True
    )
    os.close(fd)
    assert done.stdout.split() == ["verified", "refused"]


def test_all_seals_are_set_and_the_descriptor_is_not_inherited() -> None:
    fd = sealed(b"verified")
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & ALL_SEALS == ALL_SEALS
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_zeros_take_no_memory_and_are_still_there() -> None:
    """At the beginning, in the middle and at the end."""
    fd = sealed(bytes(MIB), b"data", bytes(64 * MIB), b"more", bytes(MIB))
    found = os.fstat(fd)
    assert found.st_size == 66 * MIB + 8
    assert found.st_blocks * 512 < MIB
    assert os.pread(fd, 6, MIB - 1) == b"\0data\0"
    assert os.pread(fd, 6, 65 * MIB + 3) == b"\0more\0"
    os.close(fd)


def test_an_empty_file_is_a_file() -> None:
    fd = sealed()
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def test_what_is_not_sealed_is_given_back() -> None:
    with pytest.raises(ZeroDivisionError), SealedFile("half") as made:
        made.write(b"half of it")
        assert open_memory_files("half") == 1
        made.write(bytes([1 // 0]))
    assert open_memory_files("half") == 0


def test_a_long_name_is_no_hindrance() -> None:
    with SealedFile("n" * 1000) as made:
        os.close(made.seal())
