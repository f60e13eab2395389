"""A memory cgroup of the test's own (v1 or v2) for processes that the test starts. What is measured is the test's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.agent import wait_until

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """limit_bytes holds for all processes in it together, their shared memory and page cache included."""

    def __init__(self, limit_bytes: int) -> None:
        """Raises OSError where this machine lets nobody make one."""
        v1 = (ROOT / "memory" / "memory.limit_in_bytes").exists()
        top = ROOT / "memory" if v1 else ROOT
        if not v1:
            (top / "cgroup.subtree_control").write_text("+memory")
        self.folder = top / f"holdfast-test-{os.getpid()}"
        self.folder.mkdir()
        try:
            (self.folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit_bytes))
            self._events = self.folder / ("memory.oom_control" if v1 else "memory.events")
        except OSError:
            self.folder.rmdir()
            raise

    def take(self, pid: int) -> None:
        """A process that was just started, with all that it will start."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def pids(self) -> set[int]:
        """Who is in it."""
        return set(map(int, (self.folder / "cgroup.procs").read_text().split()))

    def killed(self) -> int:
        """How many processes the kernel killed because the limit was reached."""
        fields = dict(line.split() for line in self._events.read_text().splitlines())
        return int(fields.get("oom_kill", 0))

    def end(self) -> None:
        """Remove it, once every process in it is gone."""
        wait_until(lambda: not self.pids(), lambda: f"processes {self.pids()} end")
        self.folder.rmdir()


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Made and ended; the test is skipped, with the reason, where none can be made."""
    if os.getuid() != 0:
        pytest.skip("making a memory cgroup needs root")
    try:
        group = MemoryGroup(limit_bytes)
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        yield group
    finally:
        group.end()
