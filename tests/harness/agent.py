"""One real agent in a folder of its own: started, asked, killed and stopped by its process ids.

What is asserted is the tests'.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_agent.folders import run_folders

ROOT = Path(__file__).resolve().parents[2]
EDGE_AGENT = [sys.executable, "-m", "edge_agent.cli"]
PADDLE_PYTHON = os.environ.get("HOLDFAST_PADDLE_PYTHON", str(ROOT / ".venv-paddle" / "bin" / "python"))
POLL_S = 0.02
# Straight to probation, which time alone ends: most tests are about something else than a trial, which says so itself.
NO_TRIAL: dict[str, Any] = {"shadow_s": 0.0, "share_percents": [], "probation_requests_min": 0}


def wait_until(condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = 30.0) -> Any:
    """The first true value of the condition. Raises AssertionError with `what` (asked then) after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:  # ends with the time-out
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)  # between two looks at another process, which has no event for us


class Agent:
    """An agent in `folder` (short: unix socket paths are bounded). Use with `with`: everything it started is ended."""

    def __init__(
        self,
        folder: Path,
        root_file: Path,
        *,
        models: Mapping[str, Mapping[str, Any]],
        engine: str = "numpy",
        **sections: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.config_file = folder / "agent.toml"
        self.log_file = folder / "agent.log"
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._port: int | None = None
        self.forked = False  # start from a server that has imported the runtime already: the same code, much sooner
        self.detached = False  # it is to outlive this process, in a session of its own
        folder.mkdir(parents=True, exist_ok=True)
        python = {"paddle": PADDLE_PYTHON, "numpy": sys.executable}[engine]
        settings: dict[str, Any] = {
            "state_dir": str(self.state_dir),
            "trusted_root": str(root_file),
            "device_id": folder.name,
            "device_type": "x86_64",
            "serving": {"http": "127.0.0.1:0", **sections.pop("serving", {})},
            "models": {name: {**NO_TRIAL, **model} for name, model in models.items()},
            "engines": {engine: {"python": python}},
            "limits": {"orphan_s": 15.0, **sections.pop("limits", {})},
            **{name: dict(section) for name, section in sections.items()},
        }
        self.config_file.write_text(to_toml(settings))

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Agent:
        """Start the runtime; it is not ready yet."""
        if self.forked:
            self._process = Forked(run_in_fork, self.config_file, self.log_file)
            return self
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*EDGE_AGENT, "run", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self.detached,
            )
        return self

    def start_and_wait(self, timeout_s: float = 30.0) -> Agent:
        """Start, and return once something serves."""
        self.start()
        self.wait_serving(timeout_s)
        self._port = int(self.status()["http"].rpartition(":")[2])
        return self

    def wait_serving(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Return once every model serves."""

        def serving() -> dict[str, Any] | None:
            self.check_alive()
            status = self.status_or_none()
            return status if status and all(model["serving"] for model in status["models"].values()) else None

        result: dict[str, Any] = wait_until(serving, lambda: f"all models serve: {self.log_tail()}", timeout_s)
        return result

    def check_alive(self) -> None:
        """Raises AssertionError with the log when the runtime has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"the agent ended with {self._process.returncode}: {self.log_tail()}")

    def cli(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run `edge-agent ARGUMENTS` on this agent."""
        command = [*EDGE_AGENT, *arguments, "--config", str(self.config_file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def cli_json(self, *arguments: str) -> dict[str, Any]:
        """The JSON document of a command that has to succeed."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def status_or_none(self) -> dict[str, Any] | None:
        """The status document, None while nobody answers. Asked in this process: quick enough to poll."""
        from edge_agent.client import AdminClient
        from edge_agent.config import load_config
        from edge_agent.contract.errors import HoldfastError

        try:
            with AdminClient(load_config(self.config_file)) as client:
                document: dict[str, Any] = client.ask("status")[0]["status"]
                return document
        except HoldfastError:
            return None

    def status(self) -> dict[str, Any]:
        """The status document."""
        document: dict[str, Any] = wait_until(self.status_or_none, "the agent answers", 30.0)
        return document

    def model(self, name: str) -> dict[str, Any]:
        """One slot of the status document."""
        document: dict[str, Any] = self.status()["models"][name]
        return document

    def wait_model(
        self, name: str, condition: Callable[[dict[str, Any]], Any], what: str, timeout_s: float = 30.0
    ) -> Any:
        """Return the slot's document once the condition holds for it."""

        def holds() -> dict[str, Any] | None:
            status = self.status_or_none()
            document = status["models"][name] if status else None
            return document if document and condition(document) else None

        return wait_until(holds, f"{name}: {what}", timeout_s)

    def port(self) -> int:
        """The port of the HTTP front; it stays the same while any front lives, so it is asked for once."""
        if self._port is None:
            self._port = int(self.status()["http"].rpartition(":")[2])
        return self._port

    def pids(self) -> list[int]:
        """Process ids of the runtime and all its children."""
        status = self.status_or_none()
        if status is None:
            return []
        found = status["processes"]
        children = [entry["pid"] for kind in ("zygotes", "workers") for entry in found[kind]]
        return [pid for pid in (found["runtime"], found["front"], *children) if pid]

    def workers(self, digest: str | None = None) -> list[dict[str, Any]]:
        """Loaded workers (of this digest)."""
        found = self.status()["processes"]["workers"]
        return [w for w in found if w["stage"] == "up" and digest in (None, w["digest"])]

    def kill_workers(self, digest: str) -> None:
        """SIGKILL every worker of this snapshot, those that stand by first: a request dies with one of them at most."""
        for worker in reversed(self.workers(digest)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker["pid"], signal.SIGKILL)
            wait_until(
                lambda gone=worker["id"]: gone not in {w["id"] for w in self.workers(digest)}, "the worker is gone"
            )

    def wait_end(self) -> None:
        """Return once the runtime has ended."""
        assert self._process is not None
        self._process.wait(30)

    def kill_runtime(self) -> None:
        """kill -9 of the runtime alone: its children go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Graceful stop; whatever is left is killed by its id."""
        children = children_of(self.state_dir)
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pid in children | children_of(self.state_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for folder in run_folders(self.state_dir):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process id of the runtime that runs (or ran last)."""
        assert self._process is not None and self._process.pid is not None, "it was never started"
        return self._process.pid

    def log_tail(self, lines: int = 15) -> str:
        """The end of the agent's log."""
        if not self.log_file.exists():
            return "no log"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


class Forked:
    """A process forked from a server that has imported the product: a real one of its own, with Popen's verbs.

    run: what it does, with these arguments. preload: more modules that the server imports, if it does not run yet.
    """

    def __init__(self, run: Callable[..., None], *arguments: Any, preload: Sequence[str] = ()) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["edge_agent.cli", "edge_agent.runtime.app", *preload])
        self._child = context.Process(target=run, args=arguments)
        self._child.start()

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        return self._child.exitcode

    def poll(self) -> int | None:
        return self._child.exitcode

    def wait(self, timeout_s: float | None = None) -> int | None:
        self._child.join(timeout_s)
        if self._child.exitcode is None:
            raise subprocess.TimeoutExpired("edge-agent run", timeout_s or 0)
        return self._child.exitcode

    def kill(self) -> None:
        self._child.kill()

    def terminate(self) -> None:
        self._child.terminate()


def run_in_fork(config_file: Path, log_file: Path) -> None:
    """What `edge-agent run` does, with its log in a file."""
    from edge_agent.cli import main as command

    log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    command(["run", "--config", str(config_file)])


def children_of(state_dir: Path) -> set[int]:
    """Every process with this agent's run folder in its command line (forked workers inherit their zygote's)."""
    markers = [os.fsencode(folder) for folder in run_folders(state_dir)]
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if any(marker in command for marker in markers):
                    found.add(int(entry.name))
    return found


def to_toml(document: Mapping[str, Any], prefix: str = "") -> str:
    """Plain settings as TOML (strings, numbers, booleans, tables)."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in document.items() if not isinstance(value, Mapping)]
    for key, value in document.items():
        if isinstance(value, Mapping):
            name = f"{prefix}.{key}" if prefix else key
            lines += [f"[{name}]", to_toml(value, name)]
    return "\n".join(lines) + "\n"


class ShortFolder:
    """A temporary folder with a short path, removed at the end."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="hf-"))
        return self._path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
