"""What the kernel says of a process, for tests that end or stop some. Starting and ending them is `agent`'s."""

from __future__ import annotations

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether this process runs or is stopped; a zombie has ended."""
    return _state(pid) not in ("", "Z")


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP holds this process."""
    return _state(pid) == "T"


def started_at(pid: int) -> str:
    """When this process was started, in a form that no later one with its id has; '' when there is none."""
    try:
        since_boot = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}+{since_boot}"


def _state(pid: int) -> str:
    """The letter of proc(5), '' when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
