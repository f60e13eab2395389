"""Golden vectors replayed through loaded workers: a quiet device comes to an end. How often a watch asks is tested with
the core.
"""

from __future__ import annotations

from tests.harness.fixtures import NewAgent
from tests.harness.releases import Releases

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
