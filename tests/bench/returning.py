"""A fleet goes back: three real Paddle devices with digits, from the coordinator's acceptance to each device's first
answer of the other version; and what the coordinator and the sync processes weigh. The stage is `line_stage`'s.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path

from tests.bench import line_stage
from tests.bench.device import ask
from tests.bench.figures import Results
from tests.harness.agent import Agent
from tests.harness.client import RecordingClient
from tests.harness.fleet import Fleet
from tests.harness.releases import DigitsReleases

GROUP = "digits on three devices"
MODEL = "digits"
VERSIONS = ("1.0.0", "1.1.0")
DEVICES = ("device-1", "device-2", "device-3")


def measure(results: Results, folder: Path, *, times: int) -> None:
    """Back and forth, under one client per device."""
    releases = DigitsReleases(folder / "releases")
    for version in VERSIONS:
        releases.publish(version)
    fleet = Fleet(folder, releases, 0, factory=VERSIONS[0], model={"probation_s": 0.0})
    try:
        fleet.broker.start()
        fleet.start_coordinator()
        agents = {name: line_stage.start_device(fleet, name) for name in DEVICES}
        with results.measuring(f"{GROUP}: {times} fleet rollbacks, back and forth"), contextlib.ExitStack() as stack:
            clients = {name: stack.enter_context(_client(releases, agent)) for name, agent in agents.items()}
            _weigh(results, fleet, agents)
            done = fleet.fleet("rollout", "start", MODEL, "--to", VERSIONS[1], "--wait", "90")
            assert done.returncode == 0, done.stderr
            alone_s = _on_the_device(results, agents[DEVICES[0]], clients[DEVICES[0]], times)
            for number in range(times):
                _once(results, fleet, agents, clients, VERSIONS[number % 2], alone_s)
            failed = sum(client.failed + client.mismatches for client in clients.values())
            results.add(GROUP, "failed or wrong answers", "", failed)
    finally:
        fleet.stop()


def _client(releases: DigitsReleases, agent: Agent) -> RecordingClient:
    return RecordingClient(
        agent.port(), MODEL, releases.input_name, releases.inputs, releases.references(),
        pause_s=line_stage.CLIENT_PAUSE_S,
    )  # fmt: skip


def _on_the_device(results: Results, agent: Agent, client: RecordingClient, times: int) -> float:
    """`edge-agent rollback` back and forth, without the line; the median in seconds. It ends where it began."""
    line_stage.wait_serves(agent, MODEL, VERSIONS[1])
    taken = []
    for number in range(times + times % 2):
        version = VERSIONS[number % 2]
        called_s = time.time()
        ask(agent, "rollback", model=MODEL, version=version)
        taken.append(line_stage.first_answer_unix_s(client, version, called_s) - called_s)
        results.add(GROUP, "edge-agent rollback: call to first answer", "ms", taken[-1] * 1e3)
        line_stage.wait_serves(agent, MODEL, version)
    return statistics.median(taken)


def _once(
    results: Results,
    fleet: Fleet,
    agents: dict[str, Agent],
    clients: dict[str, RecordingClient],
    version: str,
    alone_s: float,
) -> None:
    """One rollback of the whole fleet, from a steady state."""
    for agent in agents.values():
        other = VERSIONS[1 - VERSIONS.index(version)]
        line_stage.wait_serves(agent, MODEL, other)
    took = line_stage.roll_back(fleet, clients, MODEL, version)
    to, other_ms = "edge-agent rollback", alone_s * 1e3
    for took_s in took.values():
        results.add(GROUP, "accepted to first answer, each device", "ms", took_s * 1e3, to=to, other=other_ms)
    last_s = max(took.values())
    results.add(GROUP, "accepted to first answer, the last device", "ms", last_s * 1e3, to=to, other=other_ms)


def _weigh(results: Results, fleet: Fleet, agents: dict[str, Agent]) -> None:
    results.add(GROUP, "PSS of coordinator: three devices", "MiB", line_stage.mib(fleet.coordinator.pid))
    for agent in agents.values():
        results.add(GROUP, "PSS of sync: idle", "MiB", line_stage.mib(line_stage.sync_pid(agent)))
