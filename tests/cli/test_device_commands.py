"""`edge-agent` against a real agent: the documents that scripts rely on. Hostile input: tests/runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.agent import Agent, ShortFolder, wait_until
from tests.harness.damage import flip_parameters
from tests.harness.fixtures import NewAgent, agents_of
from tests.harness.releases import Releases

# What architecture.md promises to scripts, with types; then what this version says beyond it. None: may be null.
SNAPSHOT = {"version": str, "digest": str}
STATUS = {"device_id": str, "agent_version": str, "models": dict, "sync": dict}
STATUS_MORE = {"http", "storage", "processes"}
SLOT = {"active": dict, "last_good": dict, "candidate": type(None), "quarantined": list, "serving": bool,
        "fallbacks": int}  # fmt: skip
SLOT_MORE = {"status", "wanted", "assigned", "held", "pinned", "reason", "declined", "snapshots", "workers"}
SYNC_MORE = {"configured", "since", "detail", "epoch", "revision"}


@pytest.fixture(scope="module")
def device(releases: Releases) -> Iterator[Agent]:
    """One agent for the whole file: 0.9.0 from the factory, then 1.0.0 and 1.1.0 imported."""
    with ShortFolder() as folder, agents_of(releases, folder) as make:
        agent = make().start_and_wait()
        for version in ("1.0.0", "1.1.0"):
            agent.cli_json("import", str(releases.all[version].bundle))
        yield agent


def has(document: dict[str, Any], agreed: dict[str, type], more: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """All agreed keys with their types, and no others than those known beyond them."""
    assert set(document) == set(agreed) | more
    for key, kind in agreed.items():
        assert type(document[key]) is kind, f"{key}: {document[key]!r}"


def test_status_has_the_agreed_shape(device: Agent, releases: Releases) -> None:
    device.wait_model("tiny", lambda m: m["candidate"] is None, "confirmed")
    status = device.cli_json("status")
    has(status, STATUS, STATUS_MORE)
    has(status["sync"], {"connected": bool, "outbox": int}, SYNC_MORE)
    assert set(status["models"]) == {"tiny"}
    slot = status["models"]["tiny"]
    has(slot, SLOT, SLOT_MORE)
    has(slot["active"], {**SNAPSHOT, "since": float})
    has(slot["last_good"], SNAPSHOT)
    assert slot["active"]["digest"] == releases.all["1.1.0"].digest
    assert slot["last_good"] == {"version": "1.0.0", "digest": releases.all["1.0.0"].digest}
    assert slot["serving"] is True and slot["fallbacks"] == 0


def test_status_waits_for_an_agent_that_is_starting(new_agent: NewAgent) -> None:
    """As the README has it: started in the background, asked at once."""
    agent = new_agent()
    assert agent.cli("status").returncode == 1, "nobody runs: told at once"
    agent.start()
    assert set(agent.cli_json("status", "--wait", "60")["models"]) == {"tiny"}


def test_commands_without_an_agent_fail_at_once(releases: Releases, new_agent: NewAgent) -> None:
    """The time-out of the command line here lies far below what an import waits for a restart."""
    agent = new_agent()
    refused = agent.cli("import", str(releases.all["1.0.0"].bundle), timeout_s=20.0)
    assert refused.returncode == 1
    assert "no agent runs" in refused.stderr and "edge-agent run" in refused.stderr


def test_a_misspelt_model_gets_the_nearest_name(device: Agent) -> None:
    refused = device.cli("rollback", "tinny")
    assert refused.returncode == 1
    assert "Did you mean tiny?" in refused.stderr


def test_status_names_a_candidate_with_its_phase(releases: Releases, new_agent: NewAgent) -> None:
    agent = new_agent(model={"probation_s": 600.0}).start_and_wait()
    agent.cli_json("import", str(releases.all["1.0.0"].bundle))
    slot = agent.cli_json("status")["models"]["tiny"]
    has(slot["candidate"], {**SNAPSHOT, "phase": str})
    assert slot["candidate"]["phase"] == "probation"
    assert "1.0.0 (probation)" in agent.cli("status").stdout, "a row is not folded in a pipe"


def test_a_failed_snapshot_is_listed_with_its_reason(releases: Releases, new_agent: NewAgent, tmp_path: Path) -> None:
    mine = Releases(tmp_path)
    mine.publish("0.9.0")
    bad = mine.publish("1.0.0", proven=False, golden_error=1.0)
    with ShortFolder() as folder, agents_of(mine, folder) as make:
        agent = make().start_and_wait()
        refused = agent.cli("import", str(bad.bundle), "--json")
        assert refused.returncode == 1
        assert json.loads(refused.stdout)["reason"] == "proof"
        (record,) = agent.cli_json("status")["models"]["tiny"]["quarantined"]
        assert {key: record[key] for key in ("version", "digest", "reason")} == {
            "version": "1.0.0", "digest": bad.digest, "reason": "proof",
        }  # fmt: skip
        told = agent.cli("status").stdout
        assert "proof" in told and "->" in told, "people are told what to do about it"


def test_import_without_waiting_and_the_same_one_again(device: Agent, releases: Releases) -> None:
    bundle = str(releases.all["1.1.0"].bundle)
    assert device.cli_json("import", bundle, "--no-wait")["digest"] == releases.all["1.1.0"].digest
    again = device.cli_json("import", bundle)
    assert again["ok"] is True and again["serving"] is True
    assert "tiny@1.1.0 serves" in device.cli("import", bundle).stdout


def test_history_is_told_in_order_and_as_many_lines_as_asked(device: Agent) -> None:
    lines = device.cli_json("history", "tiny")["lines"]
    numbers = [line["number"] for line in lines]
    assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)
    assert {"fetching", "verified", "proven", "probation", "confirmed"} <= {line.get("phase") for line in lines}
    assert device.cli_json("history", "--newest", "2")["lines"] == lines[-2:]
    told = device.cli("history", "--newest", "2").stdout.strip().splitlines()
    assert len(told) == 2 and "confirmed" in told[-1]


def test_rollback_says_what_serves_now(device: Agent) -> None:
    there = device.cli_json("rollback", "tiny", "--to", "1.0.0")["model"]
    assert there["active"]["version"] == "1.0.0"
    assert device.cli("rollback", "tiny", "--to", "1.1.0").stdout.strip() == "tiny@1.1.0 serves"


def test_verify_finds_damage_and_says_how_to_mend_it(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent(scrub={"interval_s": 3600.0}).start_and_wait()
    release = releases.all["1.0.0"]
    agent.cli_json("import", str(release.bundle))
    factory = releases.all["0.9.0"].digest
    assert agent.cli_json("verify") == {"ok": True, "damaged_chunks": {factory: 0, release.digest: 0}}
    flip_parameters(agent.state_dir / "models.db", releases.publisher.repository.folder, release.bundle)
    done = agent.cli("verify", "--json")
    assert done.returncode == 1 and "->" in done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is False and found["damaged_chunks"][release.digest] >= 1
    agent.cli_json("import", str(release.bundle))
    wait_until(lambda: agent.cli("verify").returncode == 0, "repaired by the bundle")


def test_verify_finds_a_damaged_factory_snapshot(new_agent: NewAgent, releases: Releases) -> None:
    agent = new_agent().start_and_wait()
    release = releases.all["0.9.0"]
    flip_parameters(agent.folder.parent / "d.factory", releases.publisher.repository.folder, release.bundle)
    done = agent.cli("verify", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["damaged_chunks"][release.digest] == 1
    assert "edge-agent factory" in done.stderr
    assert agent.model("tiny")["serving"], "the loaded bytes go on serving"


def test_a_pin_holds_and_refuses_what_is_new_until_it_is_taken_back(releases: Releases, new_agent: NewAgent) -> None:
    agent = new_agent().start_and_wait()
    agent.cli_json("import", str(releases.all["1.0.0"].bundle), "--until", "confirmed")
    assert agent.cli("pin", "tiny", "--to", "0.9.0").stdout.strip() == "tiny@0.9.0 serves, pinned"
    assert agent.cli_json("status")["models"]["tiny"]["pinned"] is True
    assert "pinned" in agent.cli("status").stdout
    refused = agent.cli("import", str(releases.all["1.1.0"].bundle), "--json")
    assert refused.returncode == 1 and json.loads(refused.stdout)["reason"] == "pinned"
    assert agent.cli_json("unpin", "tiny")["model"]["pinned"] is False
    assert agent.cli_json("import", str(releases.all["1.1.0"].bundle))["serving"] is True


def test_a_version_that_is_not_here_cannot_be_pinned(device: Agent) -> None:
    refused = device.cli("pin", "tiny", "--to", "7.0.0", "--json")
    assert refused.returncode == 1 and json.loads(refused.stdout)["reason"] == "unknown_version"


def test_a_factory_snapshot_is_renewed_on_purpose_only(releases: Releases, new_agent: NewAgent) -> None:
    agent = new_agent()
    out, newer = str(agent.folder.parent / "d.factory"), str(releases.all["1.0.0"].bundle)
    refused = agent.cli("factory", newer, "--out", out)
    assert refused.returncode == 1 and "--renew" in refused.stderr
    assert agent.cli_json("factory", newer, "--out", out, "--renew")["snapshot"] == "tiny@1.0.0"
    assert agent.start_and_wait().model("tiny")["active"]["version"] == "1.0.0"
