"""What is said on the line and to the runtime: hello, presence, state, reports, assignments, acknowledgements."""

from __future__ import annotations

import signal

from edge_agent.contract import canonical, topics
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.presence import CoordinatorHere
from edge_agent.contract.reasons import Reason
from tests.publishing import Publisher
from tests.samples import a_manifest
from tests.sync.stand import Stand

SMALL = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}


def test_a_connecting_device_says_hello_presence_and_state(stand: Stand) -> None:
    stand.start().connected()
    stand.until(lambda: stand.coordinator.heard["state"], "it tells its state")
    (hello,), (presence,) = stand.coordinator.documents(topics.HELLO), stand.coordinator.documents(topics.PRESENCE)
    assert (hello.device_id, hello.models, hello.incarnation) == ("d1", ("tiny",), "first")
    assert presence.online and presence.connection_id == hello.connection_id
    assert hello.state_digest == sha256_hex(stand.coordinator.heard["state"][0])
    stand.until(lambda: stand.runtime.links[:1] == [(True, "")], "the runtime is told of the connection")


def test_the_broker_says_at_once_that_a_device_is_gone_killed_or_stopped(stand: Stand) -> None:
    for times, number in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
        stand.start()
        stand.coordinator.until(lambda: len(presences(stand)) == 2 * times - 1, "it is there")  # noqa: B023
        stand.kill(number)
        stand.coordinator.until(lambda: len(presences(stand)) == 2 * times, "the last will is heard")  # noqa: B023
        assert [presence.online for presence in presences(stand)] == [True, False] * times
        assert presences(stand)[-1].connection_id == presences(stand)[-2].connection_id
    assert len({presence.connection_id for presence in presences(stand)}) == 2


def presences(stand: Stand) -> list:  # type: ignore[type-arg]
    return stand.coordinator.documents(topics.PRESENCE)


def test_an_assignment_reaches_the_runtime_byte_for_byte(stand: Stand) -> None:
    stand.start().connected()
    stand.coordinator.say(topics.ASSIGNMENT, b"signed elsewhere")
    stand.until(lambda: stand.runtime.assignments == [b"signed elsewhere"], "the runtime has it")


def test_a_retained_assignment_is_taken_without_any_coordinator(stand: Stand) -> None:
    stand.coordinator.say(topics.ASSIGNMENT, b"retained")
    stand.start()
    stand.until(lambda: stand.runtime.assignments == [b"retained"], "the runtime has it")


def test_an_assignment_refused_for_its_signature_is_put_again_with_newer_metadata(
    stand: Stand, publisher: Publisher
) -> None:
    publisher.publish_manifest(a_manifest(), SMALL)
    stand.coordinator.serve_repository(publisher.repository.folder)
    named: list[bytes] = []

    def refuse(op: str, _header: object, _payload: bytes) -> HoldfastError | None:
        if op == "take_metadata":
            named.append(b"")
        return Rejected("whose is it?", reason=Reason.SIGNATURE) if op == "assignment" and len(named) < 2 else None

    stand.runtime.refuse = refuse
    stand.start().connected()
    stand.until(lambda: len(named) == 1, "the refresh of the connection is over")
    stand.coordinator.say(topics.ASSIGNMENT, b"of a new coordinator")
    stand.until(lambda: stand.runtime.verbs.count("assignment"), "it is put to the runtime")
    stand.until(lambda: stand.runtime.assignments, "by itself the metadata is refreshed, and it is taken")
    assert len(stand.coordinator.heard["hello"]) == 1, "without another connection"


def test_an_assignment_waits_for_a_runtime_that_cannot_take_it_now(stand: Stand) -> None:
    asked: list[str] = []

    def refuse(op: str, _header: object, _payload: bytes) -> HoldfastError | None:
        if op == "assignment":
            asked.append(op)
        return Unavailable("the disk hangs", reason=Reason.DISK_HANGS) if len(asked) == 1 else None

    stand.runtime.refuse = refuse
    stand.start().connected()
    stand.coordinator.say(topics.ASSIGNMENT, b"later")
    stand.until(lambda: stand.runtime.assignments == [b"later"], "it is put again")
    assert len(asked) == 2


def test_an_assignment_that_came_while_the_runtime_was_away_is_put_to_the_next_one(stand: Stand) -> None:
    stand.start().connected()
    stand.runtime.stop()
    stand.coordinator.say(topics.ASSIGNMENT, b"meanwhile")
    stand.runtime.start()
    stand.until(lambda: stand.runtime.assignments == [b"meanwhile"], "the next runtime has it")


def test_changes_of_state_are_told_few_at_a_time_and_the_last_one_for_certain(stand: Stand) -> None:
    stand.start()
    stand.until(lambda: stand.coordinator.heard["state"], "it tells its state")
    for revision in range(100, 200):
        stand.runtime.revision = revision
        stand.runtime.change()

    def newest() -> bool:
        return bool(stand.coordinator.documents(topics.STATE)[-1].revision == 199)

    stand.until(newest, "the newest state is told", 10.0)
    assert len(stand.coordinator.heard["state"]) < 20


def test_a_coordinator_that_connects_is_greeted_by_all(stand: Stand) -> None:
    stand.start().connected()
    here = CoordinatorHere(connection_id="c", spread_s=0.1, contracts=(1,))
    stand.coordinator.say_at(topics.COORDINATOR.topic(), canonical.encode(here))
    stand.until(lambda: len(stand.coordinator.heard["hello"]) == 2, "it says hello again")
    first, second = stand.coordinator.documents(topics.HELLO)
    assert first.connection_id == second.connection_id


# ---- reports


def test_reports_go_one_batch_at_a_time_and_the_next_follows_the_acknowledgement(stand: Stand) -> None:
    stand.runtime.report(150)
    stand.start().connected()
    stand.until(lambda: stand.coordinator.heard["reports"], "the first batch is sent")
    stand.coordinator.say(topics.ACK, b"100")
    stand.until(lambda: len(stand.coordinator.heard["reports"]) == 2, "the second batch is sent")
    first, second = stand.coordinator.documents(topics.REPORTS)
    assert [report.number for report in first.reports] == list(range(1, 101))
    assert (second.after, [report.number for report in second.reports]) == (100, list(range(101, 151)))
    stand.coordinator.say(topics.ACK, b"150")
    stand.until(lambda: not stand.runtime.outbox, "the runtime has taken the acknowledgement")


def test_a_batch_is_sent_again_until_it_is_acknowledged(stand: Stand) -> None:
    stand.runtime.report(3)
    stand.start().connected()
    stand.until(lambda: len(stand.coordinator.heard["reports"]) == 2, "the batch is sent again", 15.0)
    first, second = stand.coordinator.heard["reports"]
    assert first == second


def test_reports_survive_a_killed_sync(stand: Stand) -> None:
    stand.runtime.report(3)
    stand.start().connected()
    stand.until(lambda: stand.coordinator.heard["reports"], "the batch is sent")
    stand.kill()
    stand.runtime.report(2)
    stand.start().connected()
    stand.until(lambda: len(stand.coordinator.heard["reports"]) == 2, "the next process sends them")
    assert [r.number for r in stand.coordinator.documents(topics.REPORTS)[-1].reports] == [1, 2, 3, 4, 5]


def test_an_acknowledgement_of_less_brings_the_reports_again(stand: Stand) -> None:
    stand.runtime.acknowledged = 7
    stand.runtime.report(2)
    stand.start().connected()
    stand.until(lambda: stand.coordinator.heard["reports"], "the batch is sent")
    stand.coordinator.say(topics.ACK, b"5")
    stand.until(lambda: len(stand.coordinator.heard["reports"]) == 2, "it is sent again at once")
    assert [batch.after for batch in stand.coordinator.documents(topics.REPORTS)] == [7, 5]
