"""A real agent with an evil sync process: whatever that one tries, the device serves the same snapshot with right
answers, remembers what it remembered, and its operator gets through.

The tricks are in `evil` and `evil_floods`. One agent stands for all of them, and at the end an honest process
takes over.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.contract import limits
from edge_agent.contract.evidence import Evidence
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.report import Report, ReportKind, parse_report_batch
from edge_agent.folders import run_folders
from edge_agent.worker import wire
from tests.harness.agent import Agent, ShortFolder, wait_until
from tests.harness.client import RecordingClient
from tests.harness.fixtures import agents_of
from tests.harness.line import Signer, evidence_of, manifest_raw
from tests.harness.releases import Releases
from tests.publishing import Publisher
from tests.sync import evil, evil_floods
from tests.sync.evil import LIES
from tests.sync.evil_floods import FLOODS
from tests.sync.evil_stage import REVISION, Connection, Stage, Trick, admin_answers, resident_bytes

MIB = limits.MIB
MEMORY_KEPT_BYTES_MAX = 48 * MIB  # by which the runtime may have grown after a trick
FDS_KEPT_MAX = limits.SYNC_CONNECTIONS_MAX + 4  # connections that end a little later, and an operator's
NOBODY = 65534


@dataclass(frozen=True)
class Remembered:
    """All that an evil process must not change."""

    active: str
    version: str
    fallbacks: int
    snapshots: tuple[str, ...]
    hello: dict[str, object]
    wants: list[dict[str, object]]
    marks: bytes


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """1.0.0 serves, 1.1.0 is assigned and half offered, 2.0.0 is published and nobody's wish."""
    with ShortFolder() as folder:
        releases = Releases(folder / "releases")
        for version in ("0.9.0", "1.0.0"):
            releases.publish(version)
        signer, stranger = Signer(), Signer()
        releases.publisher.authorize_coordinator(signer.public_key)
        old_evidence = evidence_of(releases.publisher)
        for version in ("1.1.0", "2.0.0"):
            releases.publish(version)
        strange = Publisher(folder / "stranger")
        same = parse_manifest(manifest_raw(releases.publisher, releases.all["1.1.0"]))
        strange.publish_manifest(same, {})
        strange.authorize_coordinator(stranger.public_key)
        with agents_of(releases, folder) as make:
            yield staged(make().start_and_wait(), releases, signer, stranger, strange, old_evidence)


def staged(
    agent: Agent, releases: Releases, signer: Signer, stranger: Signer, strange: Publisher, old_evidence: Evidence
) -> Stage:
    """Bring the device there as an honest process would."""
    old = signer.assignment("d", 5, {"tiny": (releases.all["1.0.0"], 1)})
    taken = signer.assignment("d", REVISION, {"tiny": (releases.all["1.1.0"], 2)})
    past = (
        old,
        signer.assignment("d", REVISION, {"tiny": (releases.all["0.9.0"], 2)}),
        signer.assignment("d", 4, {"tiny": (releases.all["0.9.0"], 9)}),
        signer.assignment("d", 99, {"tiny": (releases.all["0.9.0"], 9)}, epoch=0),
        signer.assignment("d", 1, {"tiny": (releases.all["0.9.0"], 9)}, epoch=2),
        signer.assignment("e", 99, {"tiny": (releases.all["0.9.0"], 9)}),
    )
    with Connection(agent) as sync:
        assert sync.give_metadata(releases.publisher)["epoch"] == 1
        sync.ask("assignment", old)
        sync.offer(releases.publisher, releases.all["1.0.0"])
        agent.wait_model("tiny", lambda m: m["active"]["version"] == "1.0.0" and m["candidate"] is None, "serves")
        sync.ask("assignment", taken)
        assert sync.begin(releases.publisher, releases.all["1.1.0"])
        batch = parse_report_batch(sync.ask("outbox")[1])
        sync.ask("ack", signer.ack("d", batch.incarnation, 2))
    return Stage(agent, releases, signer, stranger, strange, taken, past, old_evidence, batch.incarnation, 2)


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[RecordingClient]:
    """Asks without an end, and compares every answer."""
    asking = RecordingClient(
        stage.agent.port(), "tiny", "x", stage.releases.inputs, stage.releases.references(), pause_s=0.01
    )
    with asking:
        yield asking


def remembered(stage: Stage) -> Remembered:
    model = stage.agent.model("tiny")
    with stage.socket() as sync:
        hello = {key: value for key, value in sync.ask("hello")[0].items() if key not in ("reply", "ok")}
        wants = sync.ask("wants")[0]["wants"]
    return Remembered(
        active=model["active"]["digest"],
        version=model["active"]["version"],
        fallbacks=model["fallbacks"],
        snapshots=tuple(snapshot["digest"] for snapshot in model["snapshots"]),
        hello=hello,
        wants=wants,
        marks=(stage.agent.state_dir / "marks").read_bytes(),
    )


def reports(stage: Stage) -> tuple[Report, ...]:
    """Everything in the outbox that is not acknowledged (they are fewer than a batch holds)."""
    with stage.socket() as sync:
        found = parse_report_batch(sync.ask("outbox")[1]).reports
    assert len(found) < limits.REPORTS_PER_BATCH_MAX
    return found


def runtime(stage: Stage) -> int:
    pid: int = stage.agent.status()["processes"]["runtime"]
    return pid


def open_fds(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def free_again(stage: Stage) -> None:
    """What the trick left connected is gone."""

    def free() -> bool:
        with contextlib.suppress(OSError, AssertionError), stage.socket() as sync:
            return bool(sync.ask("hello")[0]["ok"])
        return False

    wait_until(free, "the sync socket has room again", 10.0)


@pytest.mark.parametrize("trick", (*LIES, *FLOODS), ids=lambda trick: trick.__name__)
def test_the_device_is_unharmed_by(trick: Trick, stage: Stage, client: RecordingClient) -> None:
    before, told, pid = remembered(stage), reports(stage), runtime(stage)
    memory, fds, asked = resident_bytes(pid), open_fds(pid), len(client.records)

    trick(stage)

    free_again(stage)
    assert runtime(stage) == pid, "the runtime is still the same"
    assert remembered(stage) == before
    after = reports(stage)
    assert after[: len(told)] == told, "no report is lost or changed"
    assert {report.kind for report in after[len(told) :]} <= {ReportKind.REFUSED}
    assert len(after) - len(told) <= limits.REFUSALS_TOLD_MAX
    admin_answers(stage)
    assert resident_bytes(pid) - memory < MEMORY_KEPT_BYTES_MAX
    assert open_fds(pid) - fds < FDS_KEPT_MAX
    wait_until(lambda: len(client.records) > asked, "an answer")
    assert (client.mismatches, client.failed) == (0, 0), client.failures[:3]
    assert client.last_version() == "1.0.0"
    log = stage.agent.log_file.read_text(errors="replace")
    assert "Traceback" not in log and '"exception"' not in log, log[-2000:]


def test_every_trick_is_played() -> None:
    for module, played in ((evil, LIES), (evil_floods, FLOODS)):
        written = {name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__}
        assert written == {trick.__name__ for trick in played}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_cannot_connect(stage: Stage) -> None:
    path = next(f / "sync.sock" for f in run_folders(stage.agent.state_dir) if (f / "sync.sock").exists())
    assert as_nobody(path) == "PermissionError"
    modes = path.parent.stat().st_mode, path.stat().st_mode
    try:
        path.parent.chmod(0o755)
        path.chmod(0o666)
        assert as_nobody(path) == "hung up", "also where the folder was opened by mistake: the kernel says who it is"
    finally:
        path.parent.chmod(modes[0])
        path.chmod(modes[1])


def as_nobody(path: Path) -> str:
    """What becomes of a question that another user asks at this socket."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        told = "?"
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            told = question_at(path)
        except OSError as error:
            told = type(error).__name__
        finally:
            os.write(write_end, told.encode())
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as reader:
        told = reader.read()
    os.waitpid(child, 0)
    return told


def question_at(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10.0)
        sock.connect(str(path))
        with contextlib.suppress(ConnectionError):
            sock.sendall(wire.encode_frame({"op": "hello", "id": 1}))
            return "answered" if sock.recv(1 << 16) else "hung up"
        return "hung up"


def test_an_assignment_for_a_model_that_is_not_here_changes_no_slot(stage: Stage) -> None:
    """Only the coordinator can sign one; the other slots of the same assignment are taken."""
    before = remembered(stage)
    wish = stage.releases.all["1.1.0"]
    with stage.socket() as sync:
        sync.ask("assignment", stage.signer.assignment("d", 7, {"other": (wish, 1), "tiny": (wish, 2)}))
        assert sync.ask("hello")[0]["revision"] == 7
        assert sync.ask("wants")[0]["wants"] == before.wants
    assert stage.agent.model("tiny")["active"]["digest"] == before.active


def test_afterwards_an_honest_process_goes_on(stage: Stage, client: RecordingClient) -> None:
    release = stage.releases.all["1.1.0"]
    with stage.socket() as sync:
        sync.give_metadata(stage.releases.publisher)
        sync.offer(stage.releases.publisher, release)
        stage.agent.wait_model("tiny", lambda m: m["active"]["digest"] == release.digest, "serves")
    wait_until(lambda: client.last_version() == "1.1.0", "answers of 1.1.0")
    assert (client.mismatches, client.failed) == (0, 0), client.failures[:3]


def test_a_stop_waits_for_no_question(stage: Stage, client: RecordingClient) -> None:
    """The last test of this agent. A long poll is always open where there is a sync process."""
    client.stop()
    with stage.socket() as sync:
        poll = wire.encode_frame({"op": "changes", "id": 2, "seen": 1 << 60})
        sync.sock.sendall(wire.encode_frame({"op": "hello", "id": 1}) + poll)
        assert sync.receive()[0]["reply"] == 1, "the poll is next"
        started = time.monotonic()
        stage.agent.stop()
    assert time.monotonic() - started < limits.WORKER_END_S / 2
    assert "Traceback" not in stage.agent.log_file.read_text(errors="replace"), stage.agent.log_tail(30)
