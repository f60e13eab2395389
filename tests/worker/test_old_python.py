"""A whole agent with its engine in an old interpreter, as on an old system. The details are in `test_contract`."""

from __future__ import annotations

import http.client
from pathlib import Path

import numpy as np
import pytest

from tests.harness.client import ask
from tests.harness.fixtures import NewAgent
from tests.harness.releases import Releases
from tests.worker.subjects import INSTALL_OLD_PYTHON, OLD_PYTHON, has_old_python


@pytest.mark.skipif(not has_old_python(), reason=INSTALL_OLD_PYTHON)
def test_an_agent_serves_with_a_worker_under_an_old_python(new_agent: NewAgent, releases: Releases) -> None:
    with new_agent("old", engines={"numpy": {"python": OLD_PYTHON}}).start_and_wait() as agent:
        release = releases.all["0.9.0"]
        connection = http.client.HTTPConnection("127.0.0.1", agent.port(), timeout=30)
        answer = ask(connection, releases.model, releases.input_name, releases.inputs[:1])
        connection.close()
        assert (answer.status, answer.digest) == (200, release.digest), answer.text
        np.testing.assert_allclose(answer.output, release.answers[0].ravel(), rtol=1e-4, atol=1e-5)
        for worker in agent.workers():
            runs = Path(f"/proc/{worker['pid']}/exe").resolve()
            assert runs == Path(OLD_PYTHON).resolve()
