"""Children of the runtime that hang, and a runtime without room for more: no snapshot is blamed, and it goes on.

Deaths of workers, front and runtime under load: test_device.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

from tests.harness.agent import Agent, children_of, wait_until
from tests.harness.fixtures import NewAgent
from tests.harness.releases import Releases


def kill_a_worker(agent: Agent) -> str:
    """The last one, which stands by; its id."""
    worker = agent.workers()[-1]
    os.kill(worker["pid"], signal.SIGKILL)
    gone: str = worker["id"]
    return gone


def wait_two_workers(agent: Agent, *, but: str) -> None:
    wait_until(
        lambda: len([worker for worker in agent.workers() if worker["id"] != but]) >= 2,
        lambda: f"two workers again: {agent.log_tail(40)}",
        60.0,
    )


def test_a_fork_server_that_hangs_is_replaced_and_nothing_is_quarantined(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    wait_two_workers(agent, but="")
    before = agent.status()["processes"]
    zygote = before["zygotes"][0]["pid"]
    os.kill(zygote, signal.SIGSTOP)
    wait_two_workers(agent, but=kill_a_worker(agent))
    after = agent.status()["processes"]
    assert after["runtime"] == before["runtime"]
    assert zygote not in {entry["pid"] for entry in after["zygotes"]}
    slot = agent.model("tiny")
    assert (slot["quarantined"], slot["fallbacks"], slot["serving"]) == ([], 0, True)


def test_a_runtime_without_descriptors_declines_and_recovers(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    wait_two_workers(agent, but="")
    runtime = agent.status()["processes"]["runtime"]
    room = resource.prlimit(runtime, resource.RLIMIT_NOFILE)
    killed = kill_a_worker(agent)
    resource.prlimit(runtime, resource.RLIMIT_NOFILE, (3, room[1]))  # whatever is open stays so; nothing more is opened
    try:
        wait_until(lambda: "no_worker" in agent.log_file.read_text(), lambda: f"it says so: {agent.log_tail(40)}", 60.0)
    finally:
        resource.prlimit(runtime, resource.RLIMIT_NOFILE, room)
    wait_two_workers(agent, but=killed)
    assert agent.status()["processes"]["runtime"] == runtime
    slot = agent.model("tiny")
    assert (slot["quarantined"], slot["fallbacks"], slot["serving"]) == ([], 0, True)


def test_a_second_agent_is_refused_also_when_the_state_folder_was_deleted(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    children = set(agent.pids())
    shutil.rmtree(agent.state_dir)
    refused = agent.cli("run", timeout_s=30.0)
    assert refused.returncode == 1
    assert "another agent runs" in refused.stderr
    assert set(agent.pids()) == children, "the first one and its children live on"


def test_a_clean_stop_logs_no_error(new_agent: NewAgent, releases: Releases) -> None:
    """With an operator's connection open, which the stop ends."""
    from edge_agent.client import AdminClient
    from edge_agent.config import load_config

    agent = new_agent().start_and_wait()
    agent.cli_json("import", str(releases.all["1.0.0"].bundle))
    with AdminClient(load_config(agent.config_file)) as client:
        client.ask("status")
        agent.stop()
    log = agent.log_file.read_text()
    levels = {json.loads(line)["level"] for line in log.splitlines() if line.startswith("{")}
    assert "info" in levels
    assert not levels & {"error", "critical"}, agent.log_tail(40)
    assert "Traceback" not in log, log[log.index("Traceback") - 1500 :]


def test_a_fork_server_that_nobody_needed_for_long_is_launched_again(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent(factory=None, limits={"orphan_s": 1.0}).start()
    agent.status()

    def fork_servers() -> list[int]:
        return [pid for pid in children_of(agent.state_dir) if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    wait_until(lambda: not fork_servers(), "the fork server ends as an orphan")
    done = agent.cli("import", str(releases.all["1.0.0"].bundle), "--until", "serving")
    assert done.returncode == 0, done.stderr


def test_a_start_that_is_stopped_at_any_moment_leaves_no_process_behind(new_agent: NewAgent) -> None:
    for number in range(12):
        agent = new_agent(f"s{number}")
        agent.forked = False
        agent.start()
        wait_until(lambda one=agent: children_of(one.state_dir), "the fork server is launched")
        at_s = time.monotonic() + number * 0.06
        wait_until(lambda at_s=at_s: time.monotonic() >= at_s, "the moments of the stops are spread over a start")
        os.kill(agent.pid, signal.SIGTERM)
        agent.wait_end()
        wait_until(lambda one=agent: not children_of(one.state_dir), f"no process is left, stopped at {number}", 5.0)
