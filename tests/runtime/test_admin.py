"""The admin socket under peers that ask nothing, too much or nonsense: an operator gets through. What the verbs do is
tested with the commands.
"""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.client import admin_sockets
from edge_agent.config import load_config
from edge_agent.contract import limits
from edge_agent.worker import wire
from tests.harness.agent import Agent, wait_until
from tests.harness.fixtures import NewAgent

WAIT_S = limits.OFFER_IDLE_S / 2  # idle ones are cut off long before an offer would be
MIB = 1 << 20


@contextlib.contextmanager
def peer(agent: Agent) -> Iterator[socket.socket]:
    """A connection to the agent's admin socket."""
    path = next(path for path in admin_sockets(load_config(agent.config_file)) if path.exists())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(str(path))
        yield sock


def ask(sock: socket.socket, **header: Any) -> dict[str, Any]:
    """The answer to one request."""
    sock.sendall(wire.encode_frame({"id": 1, **header}))
    return receive(sock)


def receive(sock: socket.socket) -> dict[str, Any]:
    decoder = wire.FrameDecoder()
    while data := sock.recv(1 << 16):  # ends with a frame or the socket's time-out
        for answer, _ in decoder.feed(data):
            return answer
    raise AssertionError("it hung up without a word")


def test_idle_connections_lock_an_operator_out_for_a_moment_and_with_a_word(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    with contextlib.ExitStack() as idle:
        peers = [idle.enter_context(peer(agent)) for _ in range(limits.ADMIN_CONNECTIONS_MAX)]
        done = agent.cli("rollback", "tiny", "--to", "0.9.0")
        if done.returncode:  # else the idle ones were cut off while the command started
            assert "connections are open to the agent already" in done.stderr and "Try again" in done.stderr
        for sock in peers:
            assert sock.recv(1) == b"", "cut off"
        assert agent.cli("rollback", "tiny", "--to", "0.9.0").returncode == 0


def test_one_connection_too_many_is_told_so(new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    with contextlib.ExitStack() as open_ones:
        for _ in range(limits.ADMIN_CONNECTIONS_MAX):
            assert ask(open_ones.enter_context(peer(agent)), op="status")["ok"]
        with peer(agent) as one_more:
            answer = receive(one_more)
        assert (answer["ok"], answer["reason"], answer["next_step"]) == (
            False,
            "unavailable",
            "Try again in a few seconds",
        )
        done = agent.cli("status")
        assert done.returncode == 1
        assert "connections are open to the agent already" in done.stderr and "-> Try again" in done.stderr
    wait_until(agent.status_or_none, "room again")


@pytest.mark.parametrize("newest", [-1, -(1 << 70), 0])
def test_a_history_of_less_than_a_line_is_one_line(new_agent: NewAgent, newest: int) -> None:
    agent = new_agent().start_and_wait()
    with peer(agent) as sock:
        answer = ask(sock, op="history", newest=newest)
    assert (answer["ok"], len(answer["lines"])) == (True, 1)


def test_answers_that_nobody_reads_are_not_piled_up(new_agent: NewAgent) -> None:
    """Thousands of questions at once, and nothing read: the runtime stops reading, and keeps its size."""
    agent = new_agent().start_and_wait()
    runtime = agent.status()["processes"]["runtime"]
    question = wire.encode_frame({"op": "history", "id": 1, "newest": limits.HISTORY_LINES_MAX})
    before = resident_bytes(runtime)
    with peer(agent) as sock:
        sock.settimeout(3.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(4_000):  # a time-out means that the runtime has stopped reading
                sock.sendall(question * 100)
        assert agent.status()["models"]["tiny"]["serving"]
        assert resident_bytes(runtime) - before < 32 * MIB


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
