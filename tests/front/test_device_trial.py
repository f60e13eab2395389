"""A candidate on a real device under load: copies and shares as the policy says, a bad one is sent back, and no client
notices. What counts say of a candidate is tested with the core.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.harness.agent import Agent
from tests.harness.client import RecordingClient
from tests.harness.fixtures import NewAgent
from tests.harness.releases import INPUTS, Release, Releases

TRIAL: dict[str, Any] = {
    "shadow_s": 1.0,
    "shadow_requests_min": 30,
    "share_percents": [20, 50],
    "share_step_s": 1.5,
    "share_requests_min": 30,
    "probation_s": 1.0,
    "probation_requests_min": 10,
    "agreement_percent_min": 0.0,  # weights are drawn at random: two releases agree by chance alone
    "drift_max": 1.0,
    "latency_ratio_max": 100.0,
}
MARKED = float(INPUTS[0][0])  # the first number of one of the 32 requests, and of no golden vector


@pytest.fixture
def client_of(releases: Releases) -> Iterator[Any]:
    made: list[RecordingClient] = []

    def make(agent: Agent) -> RecordingClient:
        client = RecordingClient(agent.port(), "tiny", "x", releases.inputs, releases.references(), pause_s=0.003)
        made.append(client)
        return client.__enter__()

    yield make
    for client in made:
        client.stop()


def misbehaving(releases: Releases, kind: str) -> Release:
    """A release whose golden vectors agree, and which does this on one of the requests."""
    fault = {"op": "fault", "when": "poison", "kind": kind, "amount": MARKED}
    return releases.publish(f"3.0.0-live-{kind}", first_layers=(fault,))


def shares(client: RecordingClient, steps: list[float], version: str) -> list[float]:
    """The version's part of the answers between these moments (seconds of the client)."""
    found = []
    for begin_s, end_s in itertools.pairwise(steps):
        window = [one.version for one in list(client.records) if begin_s < one.at_s < end_s]
        found.append(window.count(version) / max(len(window), 1))
    return found


def test_a_good_candidate_gets_copies_then_its_share_then_everything(
    new_agent: NewAgent, releases: Releases, client_of: Any
) -> None:
    agent = new_agent(model=TRIAL).start_and_wait()
    client = client_of(agent)
    release = releases.all["1.0.0"]
    done = agent.cli("import", str(release.bundle), "--until", "confirmed", "--wait-s", "60")
    assert done.returncode == 0, done.stderr
    client.stop()
    assert (client.failed, client.mismatches) == (0, 0), client.failures
    lines = agent.cli_json("history", "tiny")["lines"]
    begun = {
        line["detail"] or line["phase"]: line["at_unix_ms"] / 1000 - client.started_unix_s
        for line in lines
        if line["phase"] in ("trial", "probation")
    }
    steps = [begun[name] for name in ("shadow", "share 20 %", "share 50 %", "probation")]
    in_shadow, in_fifth, in_half = shares(client, steps, "1.0.0")
    assert in_shadow == 0.0, "copies alone: no client gets an answer of it"
    assert 0.12 < in_fifth < 0.28 and 0.4 < in_half < 0.6


@pytest.mark.parametrize(
    ("kind", "reason"), [("nan", "non_finite"), ("raise", "error_rate"), ("segfault", "error_rate")]
)
def test_a_candidate_that_fails_on_live_requests_is_sent_back_and_nobody_notices(
    new_agent: NewAgent, releases: Releases, client_of: Any, kind: str, reason: str
) -> None:
    bad = misbehaving(releases, kind)
    agent = new_agent(model={**TRIAL, "shadow_s": 30.0}).start_and_wait()
    client = client_of(agent)
    assert agent.cli("import", str(bad.bundle)).returncode == 0
    model = agent.wait_model("tiny", lambda m: m["quarantined"], "the candidate is sent back", 60.0)
    client.stop()
    assert [record["reason"] for record in model["quarantined"]] == [reason]
    assert (client.failed, client.mismatches, set(client.versions())) == (0, 0, {"0.9.0"}), client.failures
    assert model["fallbacks"] == 0 and model["active"]["version"] == "0.9.0"


def test_what_a_share_gets_wrong_the_active_one_answers(
    new_agent: NewAgent, releases: Releases, client_of: Any
) -> None:
    bad = misbehaving(releases, "exit")
    policy = {**TRIAL, "shadow_s": 0.0, "share_percents": [30], "share_step_s": 30.0, "error_percent_max": 0.0}
    agent = new_agent(model=policy).start_and_wait()
    client = client_of(agent)
    assert agent.cli("import", str(bad.bundle)).returncode == 0
    model = agent.wait_model("tiny", lambda m: m["quarantined"], "the candidate is sent back", 60.0)
    client.stop()
    assert [record["reason"] for record in model["quarantined"]] == ["error_rate"]
    assert (client.failed, client.mismatches) == (0, 0), client.failures


def test_a_candidate_that_decides_otherwise_is_sent_back(
    new_agent: NewAgent, releases: Releases, client_of: Any
) -> None:
    release = releases.all["1.0.0"]
    old = releases.all["0.9.0"]
    alike = np.mean(release.answers.argmax(axis=-1) == old.answers.argmax(axis=-1))
    assert alike < 0.9, "the releases of this test have to differ"
    agent = new_agent(model={**TRIAL, "agreement_percent_min": 95.0}).start_and_wait()
    client = client_of(agent)
    assert agent.cli("import", str(release.bundle)).returncode == 0
    model = agent.wait_model("tiny", lambda m: m["quarantined"], "the candidate is sent back", 60.0)
    client.stop()
    assert [record["reason"] for record in model["quarantined"]] == ["disagreement"]
    assert (client.failed, set(client.versions())) == (0, {"0.9.0"})


def test_not_even_the_first_requests_of_a_share_are_answered_with_nan(new_agent: NewAgent, releases: Releases) -> None:
    bad = releases.publish("3.0.0-first-nan", first_layers=({"op": "fault", "when": "poison", "kind": "nan",
                                                             "amount": MARKED},))  # fmt: skip
    policy = {**TRIAL, "shadow_s": 0.0, "share_percents": [50], "share_step_s": 30.0}
    agent = new_agent(model=policy).start_and_wait()
    references = {digest: answers[:1] for digest, answers in releases.references().items()}
    clients = [RecordingClient(agent.port(), "tiny", "x", INPUTS[:1], references) for _ in range(2)]
    for client in clients:
        client.__enter__()
    assert agent.cli("import", str(bad.bundle)).returncode in (0, 1), "it may be quarantined by then"
    agent.wait_model("tiny", lambda m: m["quarantined"], "the candidate is sent back", 60.0)
    for client in clients:
        client.stop()
        assert (client.failed, client.mismatches) == (0, 0), client.failures
