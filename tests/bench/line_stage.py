"""What the benchmarks of the line share: devices of a fleet as processes of their own, moments from an agent's log, and
rollbacks with a client that asks meanwhile. What is compared with what is said in `downloads` and `returning`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from cloud_sync.client.api import Coordinator as Api
from tests.bench.device import pss_bytes
from tests.harness.agent import Agent, wait_until
from tests.harness.client import RecordingClient
from tests.harness.fleet import Fleet

CLIENT_PAUSE_S = 0.004  # the clients share the cores with the devices
WEIGH_S = 0.2
MIB = 1 << 20


def start_device(fleet: Fleet, name: str, *, online: bool = True, **options: Any) -> Agent:
    """One more device, started as a process that shares no memory with ours; it serves, and has said hello."""
    agent = fleet.add_agent(name, **options)
    agent.forked = False
    agent.start()
    agent.wait_serving(60.0)
    if online:
        fleet.wait_device(name, lambda device: device["online"], f"{name} is online", 60.0)
    return agent


def api(fleet: Fleet) -> Api:
    """The coordinator's HTTP interface, asked from this process; close it, or use it with `with`."""
    return Api(fleet.coordinator.url, fleet.coordinator.token_file)


def moments(agent: Agent, digest: str) -> Mapping[str, float]:
    """When the agent's log tells of each thing that happened to a snapshot first, in unix seconds.

    Keys are the events of the log; of a phase, the phase.
    """
    found: dict[str, float] = {}
    for line in agent.log_file.read_text(errors="replace").splitlines():
        entry = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if entry.get("snapshot") == digest:
            event = entry["phase"] if entry["event"] == "lifecycle_phase" else entry["event"]
            found.setdefault(event, datetime.fromisoformat(entry["timestamp"]).timestamp())
    return found


def wait_serves(agent: Agent, model: str, version: str, timeout_s: float = 120.0) -> None:
    """Return once this version serves, nothing else is under way, and a second worker of it stands by."""

    def steady() -> bool:
        status = agent.status_or_none()
        slot = status["models"][model] if status else {}
        if not (status and slot["serving"] and slot["candidate"] is None and slot["active"]["version"] == version):
            return False
        workers = [w for w in status["processes"]["workers"] if w["digest"] == slot["active"]["digest"]]
        return [worker["stage"] for worker in workers] == ["up", "up"]

    wait_until(steady, lambda: f"{model} {version} serves: {agent.log_tail(3)}", timeout_s)


def first_answer_unix_s(client: RecordingClient, version: str, after_unix_s: float) -> float:
    """When this version answered first after a moment; waits for it."""
    after_s = after_unix_s - client.started_unix_s

    def found() -> float | None:
        records = list(client.records)
        first = next((r for r in records if r.at_s + r.took_s > after_s and r.version == version), None)
        return first and first.at_s + first.took_s

    at_s: float = wait_until(found, f"an answer of {version}", 60.0)
    return at_s + client.started_unix_s


def roll_back(fleet: Fleet, clients: Mapping[str, RecordingClient], model: str, version: str) -> dict[str, float]:
    """What `fleet rollback` does; per device the seconds from the acceptance to the first answer of that version."""
    with api(fleet) as coordinator:
        accepted = coordinator.roll_back(model, version, sorted(clients)).document["rollout"]["created_unix_ms"] / 1e3
    return {name: first_answer_unix_s(client, version, accepted) - accepted for name, client in clients.items()}


class Scales:
    """Weighs processes again and again while the block runs; `peak` is the most of each, in MiB."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self.peak = dict.fromkeys(pids, 0.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scales", daemon=True)

    def __enter__(self) -> Scales:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(WEIGH_S):
            for name, pid in self._pids.items():
                self.peak[name] = max(self.peak[name], mib(pid))


def mib(pid: int) -> float:
    """A process's proportional share of memory, in MiB."""
    return pss_bytes(pid) / MIB


def sync_pid(agent: Agent) -> int:
    """The process that speaks with the broker."""
    pid: int = agent.status()["processes"]["sync"]
    return pid


def until(seconds: float) -> float:
    """The monotonic moment in so many seconds."""
    return time.monotonic() + seconds
