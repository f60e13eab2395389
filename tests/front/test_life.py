"""A front among workers, runtime and kills: poison, hangs, empty slots, restarts and the end. Each test has a device of
its own.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.front.asking import INFER, Answer, ask, infer_json, metric, raw_request
from tests.harness.agent import Agent, wait_until
from tests.harness.client import RecordingClient
from tests.harness.fixtures import NewAgent
from tests.harness.processes import is_alive
from tests.harness.releases import INPUTS, Release, Releases

POISON, HANG, SLOW = 666.0, 555.0, 300.0
GOOD = infer_json()


def faulty(releases: Releases, kind: str, amount: float) -> Release:
    """A release that misbehaves on a request whose first number is `amount`."""
    version = f"3.0.0-{kind}"
    if version not in releases.all:
        releases.publish(version, first_layers=({"op": "fault", "when": "poison", "kind": kind, "amount": amount},))
    return releases.all[version]


def infer(port: int, first: float | None = None) -> Answer:
    return ask(port, "POST", INFER, infer_json(first=first))


def load(agent: Agent, releases: Releases) -> RecordingClient:
    return RecordingClient(agent.port(), "tiny", "x", INPUTS, releases.references(), pause_s=0.001)


def test_a_poison_request_fails_alone_and_the_model_keeps_its_name(new_agent: NewAgent, releases: Releases) -> None:
    release = faulty(releases, "segfault", POISON)
    agent = new_agent(factory=release.version).start_and_wait()
    with load(agent, releases) as client:
        wait_until(lambda: len(client.records) > 10, "answers")
        answer = infer(agent.port(), POISON)
        seen = len(client.records)
        wait_until(lambda: len(client.records) > seen + 50, "others go on")
    assert (answer.status, "ended two workers" in answer.json["error"]) == (500, True)
    assert (client.failures, client.mismatches) == ([], 0)
    model = agent.model("tiny")
    assert (model["active"]["digest"], model["quarantined"], model["serving"]) == (release.digest, [], True)
    assert metric(agent.port(), "holdfast_workers_lost_total", model="tiny") == 2
    assert metric(agent.port(), "holdfast_replays_total", model="tiny") == 1


def test_every_worker_killed_at_once_costs_no_request_that_none_had_begun(
    new_agent: NewAgent, releases: Releases
) -> None:
    agent = new_agent().start_and_wait()
    wait_until(lambda: len(agent.workers()) == 2, "a spare")
    pids = [worker["pid"] for worker in agent.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(infer, agent.port())
        wait_until(lambda: metric(agent.port(), "holdfast_in_flight", model="tiny") == 1, "delivered to a worker")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert waiting.result().status == 200
    assert metric(agent.port(), "holdfast_replays_total", model="tiny") == 0
    assert agent.model("tiny")["fallbacks"] == 0


def test_a_request_that_hangs_is_given_up_while_the_spare_answers_the_others(
    new_agent: NewAgent, releases: Releases
) -> None:
    release = faulty(releases, "hang", HANG)
    agent = new_agent(factory=release.version, serving={"deadline_s": 1.0}).start_and_wait()
    wait_until(lambda: len(agent.workers()) == 2, "a spare")
    with load(agent, releases) as client, ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(infer, agent.port(), HANG)
        assert hanging.result().status == 504
        seen = len(client.records)
        wait_until(lambda: len(client.records) > seen + 50, "others go on")
    assert {record.status for record in client.records} <= {200, 504}
    assert client.mismatches == 0
    assert agent.model("tiny")["active"]["digest"] == release.digest


def test_a_front_without_a_model_says_so_and_is_ready_once_one_serves(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent(factory=None, serving={"hold_s": 0.2})
    agent.start()
    port = agent.port()
    wait_until(lambda: ask(port, "GET", "/v2/health/live").status == 200, "the front is up")
    for path in ("/health", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert ask(port, "GET", path).status == 503, path
    assert ask(port, "GET", "/health").json["models"]["tiny"]["ready"] is False
    refused = infer(port)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert "tiny" in refused.json["error"]
    assert agent.cli("import", str(releases.all["1.0.0"].bundle)).returncode == 0
    for path in ("/health", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert ask(port, "GET", path).status == 200, path
    assert infer(port).headers["holdfast-digest"] == releases.all["1.0.0"].digest


def test_readiness_is_false_while_no_worker_lives(new_agent: NewAgent) -> None:
    agent = new_agent(model={"spare": False}).start_and_wait()
    status = agent.status()["processes"]
    for entry in [*status["zygotes"], *status["workers"]]:
        os.kill(entry["pid"], signal.SIGSTOP if entry in status["zygotes"] else signal.SIGKILL)
    try:
        wait_until(lambda: ask(agent.port(), "GET", "/v2/health/ready").status == 503, "not ready")
        assert ask(agent.port(), "GET", "/v2/models/tiny/ready").status == 503
    finally:
        for entry in status["zygotes"]:
            os.kill(entry["pid"], signal.SIGCONT)
    wait_until(lambda: ask(agent.port(), "GET", "/v2/health/ready").status == 200, "ready again")


def test_a_connection_made_while_the_front_is_dead_is_answered_by_its_successor(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    port, front = agent.port(), agent.status()["processes"]["front"]
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: not is_alive(front), "dead")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(raw_request(GOOD))
        assert client.recv(1000).startswith(b"HTTP/1.1 200"), "it waited in the kernel"
    assert agent.status()["processes"]["front"] not in (None, front)
    assert agent.port() == port


def test_a_front_that_hangs_is_ended_and_its_port_answers_again(new_agent: NewAgent) -> None:
    """Connections wait in the kernel meanwhile: one made during the hang is answered by the next front."""
    agent = new_agent().start_and_wait()
    port, front = agent.port(), agent.status()["processes"]["front"]
    os.kill(front, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            wait_until(lambda: not is_alive(front), "the hung front is ended")
            client.sendall(raw_request(GOOD))
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
    finally:
        if is_alive(front):
            os.kill(front, signal.SIGKILL)
    assert infer(port).status == 200
    assert agent.status()["processes"]["front"] not in (None, front)
    assert agent.status()["processes"]["runtime"] is not None and agent.port() == port


def test_a_graceful_stop_answers_what_is_computed_and_leaves_no_process_and_no_port(
    new_agent: NewAgent, releases: Releases
) -> None:
    release = faulty(releases, "slow", SLOW)
    agent = new_agent(factory=release.version).start_and_wait()
    port, pids = agent.port(), agent.pids()
    idle = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    idle.request("GET", "/v2")
    idle.getresponse().read()
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(infer, port, SLOW) for _ in range(3)]
        wait_until(lambda: metric(port, "holdfast_in_flight", model="tiny") == 2, "two are at the worker")
        wait_until(lambda: metric(port, "holdfast_queue_length", model="tiny") == 1, "one waits")
        agent.stop()
        assert [future.result().status for future in slow] == [200, 200, 200]
    assert not [pid for pid in pids if is_alive(pid)]
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
    idle.close()


def test_after_a_switch_every_new_request_is_answered_by_the_new_snapshot(
    new_agent: NewAgent, releases: Releases
) -> None:
    agent = new_agent().start_and_wait()
    new = releases.all["1.0.0"]
    with load(agent, releases) as client:
        assert agent.cli("import", str(new.bundle)).returncode == 0
        agent.wait_model("tiny", lambda model: model["active"]["version"] == "1.0.0", "active")
        answers = [infer(agent.port()) for _ in range(20)]
    assert {answer.headers["holdfast-digest"] for answer in answers} == {new.digest}
    assert np.allclose(answers[0].json["outputs"][0]["data"], new.answers[0].ravel(), rtol=1e-4)
    assert (client.failures, client.mismatches) == ([], 0)
    digests = [record.digest for record in client.records]
    assert digests == sorted(digests, key=[releases.all["0.9.0"].digest, new.digest].index), "and never back"
