"""Golden vectors replayed through loaded workers: a quiet device comes to an end, a worker that went wrong or answers
nobody is replaced. How often a watch asks is tested with the core.
"""

from __future__ import annotations

import os
import signal

from tests.harness.agent import wait_until
from tests.harness.client import RecordingClient
from tests.harness.fixtures import NewAgent
from tests.harness.releases import INPUTS, Release, Releases

POLICY = {
    "shadow_s": 0.3,
    "shadow_requests_min": 5,
    "share_percents": [10, 50],
    "share_step_s": 0.2,
    "share_requests_min": 5,
    "probation_s": 0.3,
    "probation_requests_min": 5,
}


def test_a_device_without_any_request_tries_and_confirms_an_update(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent(model=POLICY).start_and_wait()
    release = releases.all["1.0.0"]
    done = agent.cli("import", str(release.bundle), "--until", "confirmed", "--wait-s", "60")
    assert done.returncode == 0, done.stderr
    model = agent.model("tiny")
    assert (model["active"]["digest"], model["candidate"]) == (release.digest, None)
    told = [(line["phase"], line["detail"]) for line in agent.cli_json("history", "tiny")["lines"]]
    steps = [
        ("trial", "shadow"),
        ("trial", "share 10 %"),
        ("trial", "share 50 %"),
        ("probation", ""),
        ("confirmed", ""),
    ]
    assert [step for step in told if step in steps] == steps


def late(kind: str, after: int) -> tuple[dict[str, object], ...]:
    """A layer that lets `after` runs of its process pass, the proof's three among them."""
    return ({"op": "fault", "when": "run", "kind": kind, "after": after},)


def released(releases: Releases, version: str, kind: str, after: int) -> Release:
    return releases.all.get(version) or releases.publish(version, layers=late(kind, after))


def test_a_candidate_whose_golden_vectors_turn_wrong_is_quarantined_before_anybody_asks(
    new_agent: NewAgent, releases: Releases
) -> None:
    bad = released(releases, "3.0.0-late", "garbage", 8)
    agent = new_agent(model={**POLICY, "shadow_requests_min": 1000, "shadow_s": 60.0}).start_and_wait()
    assert agent.cli("import", str(bad.bundle)).returncode == 0
    model = agent.wait_model("tiny", lambda m: m["quarantined"], "quarantined")
    assert model["quarantined"][0]["reason"] == "proof"
    assert (model["active"]["version"], model["candidate"]) == ("0.9.0", None)


def test_a_worker_in_steady_state_that_goes_wrong_is_replaced_and_nobody_notices(
    new_agent: NewAgent, releases: Releases
) -> None:
    turning = released(releases, "3.1.0-turning", "garbage", 300)
    agent = new_agent(model={"probation_s": 0.0}, scrub={"replay_interval_s": 0.01}).start_and_wait()
    assert agent.cli("import", str(turning.bundle)).returncode == 0
    agent.wait_model("tiny", lambda m: m["active"]["version"] == turning.version and not m["candidate"], "confirmed")
    first = {worker["id"] for worker in agent.workers(turning.digest)}
    wait_until(lambda: not first & {worker["id"] for worker in agent.workers()}, "other workers")
    wait_until(lambda: agent.workers(), "a worker again")
    wait_until(lambda: "replay_disagrees" in agent.log_file.read_text(), "said in the log")


def test_a_worker_that_answers_nobody_is_ended_though_nobody_asks(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent(scrub={"replay_interval_s": 0.05}, serving={"deadline_s": 1.0}).start_and_wait()
    stuck = agent.workers()[0]
    os.kill(stuck["pid"], signal.SIGSTOP)
    wait_until(lambda: stuck["id"] not in {worker["id"] for worker in agent.workers()}, "the stuck one is ended")
    wait_until(lambda: agent.workers(), "another one is up")


def test_replaying_beside_live_requests_fails_none_of_them(new_agent: NewAgent, releases: Releases) -> None:
    whatever_it_decides = {"agreement_percent_min": 0, "drift_max": 1.0}  # other weights
    model = {**POLICY, **whatever_it_decides}
    agent = new_agent(model=model, scrub={"replay_interval_s": 0.01}).start_and_wait()
    with RecordingClient(agent.port(), "tiny", "x", INPUTS, releases.references(), pause_s=0.002) as client:
        assert agent.cli("import", str(releases.all["1.0.0"].bundle)).returncode == 0
        agent.wait_model("tiny", lambda m: m["active"]["version"] == "1.0.0" and not m["candidate"], "confirmed")
        wait_until(lambda: client.last_version() == "1.0.0", "1.0.0 answers")
    assert (client.failures, client.mismatches) == ([], 0)
