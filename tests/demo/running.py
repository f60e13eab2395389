"""The processes that `make up` started: remembered by id and start time, looked for and ended. Starting is `up`'s.

A process id alone may be another process's by now. What an operator started again by hand (a runtime, the coordinator)
is found by asking it, or by its command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_agent.client import AdminClient
from edge_agent.config import load_config
from edge_agent.contract.errors import HoldfastError
from edge_agent.folders import run_folders
from tests.harness.agent import children_of, wait_until
from tests.harness.processes import is_alive, started_at

END_S = 25.0


@dataclass(frozen=True, slots=True)
class Process:
    """what: a device's id, broker or coordinator. started: tells it from a later process with the same id."""

    what: str
    pid: int
    started: str

    def lives(self) -> bool:
        """Whether it is still this process, and runs."""
        return is_alive(self.pid) and started_at(self.pid) == self.started


class Running:
    """The fleet in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "processes.json"

    def note(self, what: str, pid: int) -> None:
        """Remember a process that has just been started; written at once, so that a crash loses none."""
        processes = [*self.processes(), Process(what, pid, started_at(pid))]
        made = self._file.with_suffix(".new")
        made.write_text(json.dumps([asdict(process) for process in processes], indent=2))
        made.rename(self._file)

    def processes(self) -> list[Process]:
        """What was noted."""
        if not self._file.exists():
            return []
        return [Process(**entry) for entry in json.loads(self._file.read_text())]

    def end(self) -> list[str]:
        """End everything by its id, devices first; what was ended. Raises AssertionError when something stays."""
        living = self._living()
        for order in (_is_device, lambda process: not _is_device(process)):
            _end([process for process in living if order(process)])
        ended = [process.what for process in living]
        for state_dir in self.folder.glob("*/state"):
            left = children_of(state_dir)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ended += [f"{state_dir.parent.name}'s child {pid}" for pid in sorted(left)]
            for run_folder in run_folders(state_dir):
                shutil.rmtree(run_folder, ignore_errors=True)
        self._file.unlink(missing_ok=True)
        return ended

    def _living(self) -> list[Process]:
        """Of those that were noted, and those that took their place since."""
        found = {process.pid: process for process in self.processes() if process.lives()}
        by_hand = [(config.parent.name, _runtime_of(config)) for config in self.folder.glob("*/agent.toml")]
        by_hand += [
            ("coordinator", _coordinator_of(file)) for file in self.folder.glob("coordinator/data/endpoint.json")
        ]
        for what, pid in by_hand:
            if pid is not None and pid not in found:
                found[pid] = Process(what, pid, started_at(pid))
        return list(found.values())


def _is_device(process: Process) -> bool:
    return process.what not in ("broker", "coordinator")


def _runtime_of(config: Path) -> int | None:
    """The runtime that answers for this device."""
    try:
        with AdminClient(load_config(config)) as client:
            return int(client.ask("status")[0]["status"]["processes"]["runtime"])
    except HoldfastError:
        return None


def _coordinator_of(endpoint: Path) -> int | None:
    """The process that serves this data folder, by its own word and its command line."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        pid = int(json.loads(endpoint.read_text())["pid"])
        if os.fsencode(endpoint.parent) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    return None


def _end(processes: list[Process]) -> None:
    """Ask all of them to end, and kill what does not."""
    _signal(processes, signal.SIGTERM)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(process.lives() for process in processes), "they end", END_S)
    _signal(processes, signal.SIGKILL)
    wait_until(
        lambda: not any(process.lives() for process in processes),
        lambda: f"ended: {[process for process in processes if process.lives()]}",
    )


def _signal(processes: list[Process], number: signal.Signals) -> None:
    for process in processes:
        if process.lives():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
