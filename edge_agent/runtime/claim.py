"""What a start takes before anything else: the state folder, the run folder, and the fork server, whose engine takes
longest to import. All the rest of the runtime is imported, and started, meanwhile: nothing heavy is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import edge_agent.worker
from edge_agent.config import Config
from edge_agent.contract.errors import Rejected
from edge_agent.folders import make_run_folder, run_folders
from edge_agent.runtime.process import launch


@dataclass
class Claim:
    """One runtime's hold on a state folder. fork_servers: engine -> pid of those that nobody has taken over yet."""

    run_dir: Path
    lock_fds: list[int]
    fork_servers: dict[str, int] = field(default_factory=dict)

    def end(self) -> None:
        """Give everything back."""
        for pid in self.fork_servers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for descriptor in self.lock_fds:
            os.close(descriptor)
        self.lock_fds.clear()


def claim(config: Config) -> Claim:
    """Raises Rejected when another agent runs on the state folder, or a folder cannot be made."""
    state_dir = Path(config.state_dir)
    lock_fds = [_lock(state_dir, state_dir)]
    run_dir = make_run_folder(state_dir)
    lock_fds.append(_lock(run_dir, state_dir))  # it stays when the state folder is removed under an agent
    claimed = Claim(run_dir, lock_fds)
    outlived = any(path for folder in run_folders(state_dir) for path in folder.glob("*.sock"))
    if len(config.engines) == 1 and not outlived:  # of several it is not known yet which one will be needed
        engine = next(iter(config.engines))
        with contextlib.suppress(OSError):  # told when it is needed
            claimed.fork_servers[engine] = launch(fork_server_command(config, run_dir, engine), folder=run_dir)
    return claimed


def fork_server_socket(run_dir: Path, engine: str) -> Path:
    """Where the fork server of this engine listens."""
    return run_dir / f"zygote-{engine}.sock"


def fork_server_command(config: Config, run_dir: Path, engine: str) -> list[str]:
    """The command of a fork server, which listens once its engine is imported."""
    main = Path(edge_agent.worker.__path__[0]) / "__main__.py"
    return [
        config.engines[engine].python, "-I", str(main), "zygote", "--engine", engine,
        "--socket", str(fork_server_socket(run_dir, engine)), "--orphan-timeout-s", str(config.limits.orphan_s),
    ]  # fmt: skip


def _lock(folder: Path, state_dir: Path) -> int:
    """One runtime per state folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Rejected(
            f"the state folder {state_dir} cannot be written: {error.strerror}",
            next_step="Make it writable for the agent's user, or set another state_dir in agent.toml",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Rejected(
            f"another agent runs on {state_dir}",
            next_step="Stop it first, or give this one a state_dir of its own",
        ) from None
    return descriptor
