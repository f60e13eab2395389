"""What the process that speaks with the network can do through its socket, on a real agent: assignments, offers,
repairs, reports. What a hostile one tries is elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.assignment import Policy
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.device_state import parse_device_state
from edge_agent.contract.evidence import MetadataFiles, decode_metadata_files, encode_evidence
from edge_agent.contract.report import ReportKind, parse_report_batch
from tests.harness.agent import Agent
from tests.harness.damage import flip_parameters, is_damaged
from tests.harness.fixtures import NewAgent, agents_of
from tests.harness.line import Signer, SyncSocket, evidence_of
from tests.harness.releases import Releases


@pytest.fixture(scope="module")
def own_releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """tiny 0.9.0 (factory), 1.0.0 and 1.1.0, with a coordinator that their publisher names."""
    made = Releases(tmp_path_factory.mktemp("releases"))
    for version in ("0.9.0", "1.0.0", "1.1.0"):
        made.publish(version)
    return made


@pytest.fixture(scope="module")
def signer(own_releases: Releases) -> Signer:
    made = Signer()
    own_releases.publisher.authorize_coordinator(made.public_key)
    return made


@pytest.fixture
def releases(own_releases: Releases) -> Releases:
    """For the fixtures that make agents."""
    return own_releases


@pytest.fixture
def agent(new_agent: NewAgent) -> Agent:
    return new_agent(scrub={"interval_s": 0.3, "chunks_per_s": 1000}).start_and_wait()


@pytest.fixture
def sync(agent: Agent, releases: Releases, signer: Signer) -> Iterator[SyncSocket]:
    """A connection of an agent that knows its coordinator."""
    with SyncSocket(agent) as connection:
        assert connection.give_metadata(releases.publisher)["epoch"] == 1
        yield connection


def bring_in(agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases, version: str, revision: int) -> None:
    """Assign, offer, and wait until it serves for good."""
    release = releases.all[version]
    sync.ask("assignment", signer.assignment("d", revision, {"tiny": (release, revision)}))
    if sync.ask("wants")[0]["wants"]:
        sync.offer(releases.publisher, release)
    serves(agent, version)


def serves(agent: Agent, version: str) -> None:
    agent.wait_model(
        "tiny", lambda m: m["active"]["version"] == version and m["candidate"] is None and m["status"] == "up", version
    )


def test_an_assignment_is_wanted_offered_proven_and_served(
    agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases
) -> None:
    release = releases.all["1.0.0"]
    taken, _ = sync.ask("assignment", signer.assignment("d", 7, {"tiny": (release, 1)}))
    assert (taken["epoch"], taken["revision"]) == (1, 7)
    assert agent.model("tiny")["candidate"]["phase"] == "assigned"
    wants = [{"model": "tiny", "digest": release.digest, "version": "1.0.0", "repair": False}]
    assert sync.ask("wants")[0]["wants"] == wants
    sync.offer(releases.publisher, release)
    serves(agent, "1.0.0")
    assert sync.ask("wants")[0]["wants"] == []
    answer, raw = sync.ask("state", connection_id="c1")
    state = parse_device_state(raw)
    assert answer["digest"] == sha256_hex(raw) and (state.epoch, state.revision) == (1, 7)
    slot = state.models["tiny"]
    assert slot.active and slot.active.digest == release.digest and slot.serving
    assert slot.assigned and (slot.assigned.generation, slot.assigned.held) == (1, False)
    lines = [json.loads(line) for line in agent.log_file.read_text().splitlines()]
    logged = [line for line in lines if line["event"] == "assignment_taken"]
    assert [(line["epoch"], line["revision"], line["generations"]) for line in logged] == [(1, 7, {"tiny": 1})]


def test_an_assignment_outlives_kill_9_and_an_older_one_does_not_come_back(
    agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases
) -> None:
    bring_in(agent, sync, signer, releases, "1.0.0", 1)
    bring_in(agent, sync, signer, releases, "1.1.0", 2)
    agent.kill_runtime()
    agent.start_and_wait()
    with SyncSocket(agent) as again:
        hello, _ = again.ask("hello")
        assert (hello["epoch"], hello["revision"]) == (1, 2)
        old = signer.assignment("d", 1, {"tiny": (releases.all["1.0.0"], 1)})
        assert again.refusal("assignment", old) == "stale_assignment"
        assert again.ask("assignment", signer.assignment("d", 2, {"tiny": (releases.all["1.1.0"], 2)}))[0]["ok"]
        other = signer.assignment("d", 2, {"tiny": (releases.all["1.0.0"], 2)})
        assert again.refusal("assignment", other) == "stale_assignment", "the same revision with other content"
    serves(agent, "1.1.0")


def test_going_back_to_what_is_here_needs_no_offer_and_no_valid_date(
    agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases
) -> None:
    bring_in(agent, sync, signer, releases, "1.0.0", 1)
    bring_in(agent, sync, signer, releases, "1.1.0", 2)
    sync.ask("assignment", signer.assignment("d", 3, {"tiny": (releases.all["1.0.0"], 3)}))
    assert sync.ask("wants")[0]["wants"] == []
    serves(agent, "1.0.0")


def test_what_an_operator_chose_on_the_device_holds_and_is_told(
    agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases
) -> None:
    bring_in(agent, sync, signer, releases, "1.0.0", 1)
    agent.cli_json("rollback", "tiny", "--to", "0.9.0")
    sync.ask("assignment", signer.assignment("d", 2, {"tiny": (releases.all["1.0.0"], 1)}))
    serves(agent, "0.9.0")
    slot = parse_device_state(sync.ask("state", connection_id="c")[1]).models["tiny"]
    assert slot.assigned and slot.assigned.held
    assert "holds" in agent.cli("status").stdout
    sync.ask("assignment", signer.assignment("d", 3, {"tiny": (releases.all["1.0.0"], 2)}))
    serves(agent, "1.0.0")


def test_damage_is_wanted_as_a_repair_and_only_the_damaged_chunks_are(
    agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases
) -> None:
    bring_in(agent, sync, signer, releases, "1.0.0", 1)
    release = releases.all["1.0.0"]
    flip_parameters(agent.state_dir / "models.db", releases.publisher.repository.folder, release.bundle)
    agent.wait_model("tiny", lambda m: is_damaged(m, release.digest), "noticed")
    assert [want["repair"] for want in sync.ask("wants")[0]["wants"]] == [True]
    assert len(sync.offer(releases.publisher, release)) == 1
    agent.wait_model("tiny", lambda m: not is_damaged(m, release.digest), "repaired")


def test_reports_wait_for_a_signed_acknowledgement_and_are_sent_again_to_a_restored_coordinator(
    agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases
) -> None:
    bring_in(agent, sync, signer, releases, "1.0.0", 1)
    batch = parse_report_batch(sync.ask("outbox")[1])
    assert batch.after == 0 and batch.reports[0].number == 1
    kinds = {report.kind for report in batch.reports}
    assert {ReportKind.ASSIGNED, ReportKind.PHASE, ReportKind.SERVING} <= kinds
    newest = batch.reports[-1].number
    assert sync.ask("ack", signer.ack("d", batch.incarnation, newest))[0]["acknowledged"] == newest
    assert sync.ask("outbox")[0]["count"] == agent.status()["sync"]["outbox"] == 0
    sync.ask("ack", signer.ack("d", batch.incarnation, 2))
    again = parse_report_batch(sync.ask("outbox")[1])
    assert again.after == 2 and again.reports == batch.reports[2:], "the very same, and none is missing"
    assert sync.refusal("ack", signer.ack("d", "another", 1)) == "out_of_order"
    assert sync.refusal("ack", signer.ack("e", batch.incarnation, 1)) == "wrong_device"


def test_a_device_that_was_restored_numbers_its_reports_anew(
    agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases
) -> None:
    bring_in(agent, sync, signer, releases, "1.0.0", 1)
    batch = parse_report_batch(sync.ask("outbox")[1])
    sync.ask("ack", signer.ack("d", batch.incarnation, 3))
    assert sync.ask("ack", signer.ack("d", batch.incarnation, 1_000))[0]["acknowledged"] == 0
    anew = parse_report_batch(sync.ask("outbox")[1])
    assert anew.incarnation != batch.incarnation and anew.after == 0
    assert [report.number for report in anew.reports] == list(range(1, len(batch.reports) - 2))
    assert [report.kind for report in anew.reports] == [report.kind for report in batch.reports[3:]]


def test_a_failed_refresh_keeps_the_part_that_verified(
    agent: Agent, sync: SyncSocket, releases: Releases, short_folder: Path
) -> None:
    releases.publisher.refresh()
    evidence = evidence_of(releases.publisher)
    broken = MetadataFiles(evidence.root_chain, evidence.timestamp, evidence.tuf_snapshot[:-2], None)
    sync.send("metadata", encode_evidence(broken))
    assert sync.refusal("take_metadata") in ("malformed", "signature")
    answer, raw = sync.ask("kept_metadata", at=0)
    kept = decode_metadata_files(raw)
    assert answer["bytes"] == len(raw) and kept.timestamp == evidence.timestamp and kept.tuf_snapshot is None
    assert sync.give_metadata(releases.publisher)["epoch"] == 1


def test_policy_travels_in_the_assignment(agent: Agent, sync: SyncSocket, signer: Signer, releases: Releases) -> None:
    release = releases.all["1.0.0"]
    sync.ask("assignment", signer.assignment("d", 1, {"tiny": (release, 1)}, policy=Policy(probation_s=3600.0)))
    sync.offer(releases.publisher, release)
    agent.wait_model("tiny", lambda m: m["candidate"] and m["candidate"]["phase"] == "probation", "is watched")


def test_no_policy_goes_below_the_publishers_minimum(short_folder: Path) -> None:
    releases, signer = Releases(short_folder / "releases"), Signer()
    for version in ("0.9.0", "1.0.0"):
        releases.publish(version)
    releases.publisher.authorize_coordinator(signer.public_key)
    releases.publisher.refresh(minimums={"tiny": Policy(probation_s=3600.0)})
    with agents_of(releases, short_folder) as make:
        agent = make().start_and_wait()
        release = releases.all["1.0.0"]
        with SyncSocket(agent) as sync:
            sync.give_metadata(releases.publisher)
            sync.ask("assignment", signer.assignment("d", 1, {"tiny": (release, 1)}, policy=Policy(probation_s=0.0)))
            sync.offer(releases.publisher, release)
        agent.wait_model("tiny", lambda m: m["candidate"] and m["candidate"]["phase"] == "probation", "is watched")


def test_a_new_epoch_voids_the_assignments_of_the_old_coordinator(short_folder: Path) -> None:
    releases, signer, other = Releases(short_folder / "releases"), Signer(), Signer()
    for version in ("0.9.0", "1.0.0"):
        releases.publish(version)
    releases.publisher.authorize_coordinator(signer.public_key)
    with agents_of(releases, short_folder) as make, SyncSocket(make().start_and_wait()) as sync:
        sync.give_metadata(releases.publisher)
        old = signer.assignment("d", 9, {"tiny": (releases.all["0.9.0"], 9)})
        assert sync.ask("assignment", old)[0]["revision"] == 9
        incarnation = sync.ask("hello")[0]["incarnation"]
        assert sync.ask("ack", signer.ack("d", incarnation, 1))[0]["acknowledged"] == 1
        releases.publisher.authorize_coordinator(other.public_key)
        assert sync.give_metadata(releases.publisher)["epoch"] == 2
        assert sync.refusal("assignment", old) == "signature"
        assert sync.ask("hello")[0]["acknowledged"] == 0, "what the old one has committed, the new one does not have"
        new = other.assignment("d", 1, {"tiny": (releases.all["1.0.0"], 1)}, epoch=2)
        assert sync.ask("assignment", new)[0]["revision"] == 1, "revisions begin anew with an epoch"
