"""What must hold after any fault: something verified serves, and each answer is that of the digest it claims."""

from __future__ import annotations

import http.client

import numpy as np

from tests.harness.agent import Agent, wait_until
from tests.harness.client import ask
from tests.harness.releases import Releases


def check_answers(agent: Agent, releases: Releases, story: object, *, rows: int = 3) -> str:
    """Ask a few times; every answer has to match. The version that answered."""
    references = releases.references()
    connection = http.client.HTTPConnection("127.0.0.1", agent.port(), timeout=30)
    version = ""
    try:
        for row in range(rows):
            answer = ask(connection, releases.model, releases.input_name, releases.inputs[row : row + 1])
            assert answer.output is not None, (story, answer.status, answer.text, agent.log_tail())
            reference = references[answer.digest][row].ravel()
            assert np.allclose(answer.output, reference, rtol=1e-4, atol=1e-3), (story, answer.version, "wrong answer")
            version = answer.version
    finally:
        connection.close()
    return version


def wait_recovered(agent: Agent, story: object) -> dict[str, object]:
    """Until the device serves again by itself. Raises AssertionError with the story: then it needed a hand."""

    def serving() -> dict[str, object] | None:
        agent.check_alive()
        status = agent.status_or_none()
        return status if status and all(model["serving"] for model in status["models"].values()) else None

    document: dict[str, object] = wait_until(serving, lambda: f"{story}: serves again: {agent.log_tail()}", 30.0)
    return document
