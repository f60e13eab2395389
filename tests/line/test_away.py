"""Who is away, turned away or replaced: the broker, a device's password, the coordinator; and an end of everything."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from tests.faults.checks import check_answers
from tests.harness.agent import Agent, children_of, wait_until
from tests.harness.coordinator import Coordinator
from tests.harness.fleet import Fleet
from tests.harness.processes import is_alive
from tests.line import books, wishes


def link(agent: Agent) -> dict[str, Any]:
    """What the device says of its line."""
    document: dict[str, Any] = agent.status()["sync"]
    return document


def said_of_link(agent: Agent) -> str:
    """The line of `edge-agent status` about it."""
    done = agent.cli("status")
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("coordinator: "))


def check_connects(fleet: Fleet, agent: Agent) -> None:
    """By itself, and the coordinator knows it then."""
    wait_until(lambda: link(agent)["connected"], lambda: f"it connects: {agent.log_tail(5)}", 30.0)
    fleet.wait_device(agent.folder.name, lambda device: device["online"], "it is online")
    books.check_agree(fleet, agent)


def tries(agent: Agent) -> int:
    return agent.log_file.read_text().count('"line_down"')


def test_without_a_broker_a_device_starts_and_serves_says_why_and_connects_when_there_is_one(fleet: Fleet) -> None:
    agent = fleet.add_agent("device-early")
    fleet.broker.stop()
    agent.start().wait_serving()
    wait_until(lambda: tries(agent) >= 2, "it tries again and again")
    assert check_answers(agent, fleet.releases, "no broker") == "0.9.0"
    said = said_of_link(agent)
    assert "not connected since" in said and "refused" in said, said
    assert link(agent)["since"] > 0 and link(agent)["outbox"] > 0
    health = fleet.coordinator.health_or_none() or {}
    assert (health["status"], health["broker"]["connected"]) == ("degraded", False)
    fleet.broker.start()
    check_connects(fleet, agent)
    assert "connected since" in said_of_link(agent)


def test_a_wrong_password_is_told_as_such_and_the_right_one_needs_no_restart(fleet: Fleet) -> None:
    agent = fleet.add_agent("device-wrong")
    password_file = fleet.broker.folder / "device-wrong.password"
    right = password_file.read_text()
    password_file.write_text("wrong\n")
    agent.start().wait_serving()
    wait_until(lambda: tries(agent) >= 2, "it tries again")
    said = said_of_link(agent)
    assert "not connected since" in said and "the broker refuses user name or password" in said, said
    assert check_answers(agent, fleet.releases, "wrong password") == "0.9.0"
    assert "device-wrong" not in fleet.devices()
    sync = agent.status()["processes"]["sync"]
    password_file.write_text(right)
    check_connects(fleet, agent)
    assert agent.status()["processes"]["sync"] == sync


def test_when_the_publisher_names_another_coordinator_the_old_one_plans_nothing_and_devices_follow_the_new_one(
    fleet: Fleet,
) -> None:
    wishes.roll_out(fleet, "1.0.0")
    old = fleet.coordinator
    second = Coordinator(
        fleet.folder / "second",
        fleet.releases.root_file,
        address=fleet.broker.address,
        password_file=fleet.broker.folder / "coordinator.password",
    ).init()
    try:
        assert fleet.fleet_json("coordinator", "authorize", str(second.public_key_file))["epoch"] == 2
        fleet.fleet_json("snapshot", "publish", "--all")
        health = old.health_or_none() or {}
        assert health["status"] == "degraded" and "names another coordinator" in health["planning"]["stopped"]
        assert "names another coordinator" in fleet.fleet("devices", "list").stderr
        refused = fleet.fleet("rollout", "start", "tiny", "--to", "1.1.0")
        assert refused.returncode == 1 and "(not_authorized)" in refused.stderr
        given = books.assignments_at(old)

        fleet.coordinator = second.start().wait_connected()  # the old one still runs
        fleet.fleet_json("snapshot", "publish", "--all")
        for agent in fleet.agents:
            fleet.wait_device(agent.folder.name, lambda device: device["online"], "the new one knows it")
            books.check_agree(fleet, agent)
        wishes.roll_out(fleet, "1.1.0")
        for agent in fleet.agents:
            assert link(agent)["epoch"] == 2
            assert check_answers(agent, fleet.releases, "the new coordinator") == "1.1.0"
        assert books.assignments_at(old) == given
    finally:
        fleet.coordinator = second
        old.stop()
    for agent in fleet.agents:
        books.check_agree(fleet, agent)


def test_one_data_folder_has_one_coordinator(fleet: Fleet) -> None:
    second = fleet.coordinator.command("serve", "--data", str(fleet.coordinator.data), "--broker", fleet.broker.address)
    assert second.returncode == 1 and "another coordinator is at work in" in second.stderr
    assert fleet.coordinator.health_or_none() is not None
    wishes.roll_out(fleet, "1.0.0")


def test_a_graceful_end_of_everything_leaves_no_process_and_all_of_it_starts_again(fleet: Fleet) -> None:
    of_agents = {pid for agent in fleet.agents for pid in (agent.pid, *children_of(agent.state_dir))}
    assert {agent.status()["processes"]["sync"] for agent in fleet.agents} <= of_agents

    def end(what: str, asked: list[int], gone: set[int]) -> None:
        for pid in asked:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not any(map(is_alive, gone)), f"{what} are gone")

    end("the agents", [agent.pid for agent in fleet.agents], of_agents)
    end("the coordinator", [fleet.coordinator.pid], {fleet.coordinator.pid})
    end("the broker", [fleet.broker.pid], {fleet.broker.pid})
    assert not [pid for agent in fleet.agents for pid in children_of(agent.state_dir)]
    starts: tuple[Callable[[], Any], ...] = (fleet.broker.start, fleet.coordinator.start)
    for start in (*starts, *(agent.start for agent in fleet.agents)):
        start()
    for agent in fleet.agents:
        agent.wait_serving()
        check_connects(fleet, agent)
    wishes.roll_out(fleet, "1.1.0")
