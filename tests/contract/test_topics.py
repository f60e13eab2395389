"""The channels: their topics, and that the largest legal document fits the bound of each. Who may use them is the
broker's access list.
"""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract import limits, topics
from edge_agent.contract.assignment import Assignment, parse_assignment
from edge_agent.contract.canonical import encode
from edge_agent.contract.device_state import DeviceState, parse_device_state
from edge_agent.contract.envelope import Envelope, SignedKind, parse_envelope, signing_input
from edge_agent.contract.manifest import DeviceId
from edge_agent.contract.presence import CoordinatorHere, Hello, Presence
from edge_agent.contract.report import Report, ReportAck, ReportBatch, ReportKind, parse_report, parse_report_batch
from edge_agent.contract.topics import CHANNELS, Channel, Direction, device_and_channel
from edge_agent.contract.transfer import Get, Kind, parse_get
from edge_agent.worker import wire
from tests.contract.largest import largest

OF_A_DEVICE = [channel for channel in CHANNELS if channel.direction is not Direction.ALL]
IDS = ["d", "kiosk-7", "A.b_c-9", "a" * limits.NAME_CHARS_MAX]
MQTT_HEADER_BYTES_MAX = 1024  # topic (at most 200), correlation data, and the two user properties of an answer
by_name = pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.name)


@pytest.mark.parametrize("device_id", IDS)
@pytest.mark.parametrize("channel", OF_A_DEVICE, ids=lambda channel: channel.name)
def test_a_topic_says_whose_it_is_and_what_is_said_there(channel: Channel, device_id: str) -> None:
    topic = channel.topic(device_id)
    assert device_and_channel(topic) == (device_id, channel)
    assert matches(topics.all_up() if channel.direction is Direction.UP else topics.all_down(device_id), topic)
    assert matches(channel.topic(), topic), "without a device it is the filter for all of them"


def test_what_is_said_to_all_belongs_to_no_device() -> None:
    assert topics.COORDINATOR.topic() == topics.COORDINATOR.topic("kiosk-7") == "holdfast/1/all/coordinator"
    assert device_and_channel(topics.COORDINATOR.topic()) is None


def test_topics_are_those_of_the_contract() -> None:
    """Brokers' access lists are written with them: a change is another contract version."""
    assert {channel.topic("ID") for channel in CHANNELS} == {
        "holdfast/1/d/ID/up/hello",
        "holdfast/1/d/ID/up/presence",
        "holdfast/1/d/ID/up/state",
        "holdfast/1/d/ID/up/reports",
        "holdfast/1/d/ID/up/get",
        "holdfast/1/d/ID/down/assignment",
        "holdfast/1/d/ID/down/ack",
        "holdfast/1/d/ID/down/got",
        "holdfast/1/all/coordinator",
    }
    assert (topics.all_up(), topics.all_down("ID")) == ("holdfast/1/d/+/up/+", "holdfast/1/d/ID/down/+")


@pytest.mark.parametrize(
    "topic",
    [
        "", "/", "holdfast", "holdfast/1", "holdfast/1/d/kiosk-7/up", "holdfast/1/d/kiosk-7/up/", "$SYS/broker/uptime",
        "holdfast/2/d/kiosk-7/up/hello", "holdfast/10/d/kiosk-7/up/hello", "Holdfast/1/d/kiosk-7/up/hello",
        "/holdfast/1/d/kiosk-7/up/hello", "holdfast/1/d/kiosk-7/up/hello/", "holdfast/1/d/kiosk-7/up/hello/more",
        "holdfast/1/d/kiosk-7/up/hello\n", "holdfast/1/d/kiosk-7/up/hello\0", "holdfast/1/d/kiosk-7/up/Hello",
        "holdfast/1/d/kiosk-7/down/hello", "holdfast/1/d/kiosk-7/up/assignment", "holdfast/1/d/kiosk-7/up/other",
        "holdfast/1/d/kiosk-7/all/coordinator", "holdfast/1/d//up/hello", "holdfast/1/d/+/up/hello",
        "holdfast/1/d/#/up/hello", "holdfast/1/d/a/b/up/hello", "holdfast/1/d/../up/hello", "holdfast/1/d/./up/hello",
        "holdfast/1/d/-a/up/hello", "holdfast/1/d/a-/up/hello", "holdfast/1/d/a b/up/hello", "holdfast/1/d/ä/up/hello",
        "holdfast/1/d/a\0/up/hello", "holdfast/1/d/" + "a" * 65 + "/up/hello", "holdfast/1/d/" + "a" * 65_000,
        "holdfast/1/d/kiosk-7/up/" + "a" * 65_000, "holdfast/1/d/+/up/+", "holdfast/1/d/kiosk-7/down/#",
    ],
)  # fmt: skip
def test_a_topic_that_this_version_does_not_know_is_nobodys(topic: str) -> None:
    assert device_and_channel(topic) is None


ids = st.text(st.sampled_from("aZ0_.-/+#$ \n\0ä"), max_size=8) | st.text(max_size=70)


@given(device_id=ids)
def test_a_topic_has_a_device_exactly_when_its_id_is_one(device_id: str) -> None:
    found = device_and_channel(topics.HELLO.topic(device_id))
    try:
        msgspec.convert(device_id, DeviceId)
    except msgspec.ValidationError:
        assert found is None
    else:
        assert found == (device_id, topics.HELLO)


@given(topic=st.text(max_size=100))
def test_any_other_text_is_no_topic_and_no_error(topic: str) -> None:
    assert device_and_channel(topic) is None


@by_name
def test_each_channel_is_bounded_and_says_what_it_is_for(channel: Channel) -> None:
    assert len(channel.says) > 5 and re.fullmatch(r"[a-z]+", channel.name)
    assert channel.qos in (0, 1)
    assert channel.bytes_max + MQTT_HEADER_BYTES_MAX <= limits.MQTT_PACKET_BYTES_MAX
    assert len(channel.topic("a" * limits.NAME_CHARS_MAX)) < 200


def test_names_and_places_are_unique() -> None:
    assert len({channel.name for channel in CHANNELS}) == len(CHANNELS)


def test_only_the_wish_is_kept_by_the_broker_and_all_that_changes_a_device_is_signed() -> None:
    assert [channel.name for channel in CHANNELS if channel.retain] == ["assignment"]
    assert {channel.name: channel.signed for channel in CHANNELS if channel.signed} == {
        "assignment": SignedKind.ASSIGNMENT,
        "ack": SignedKind.REPORT_ACK,
    }
    assert all(channel.direction is Direction.DOWN for channel in CHANNELS if channel.signed)
    assert set(SignedKind) == {channel.signed for channel in CHANNELS if channel.signed}


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    payload = b'{"a":1}'
    inputs = {signing_input(kind, payload) for kind in SignedKind}
    assert inputs == {b'holdfast-1 assignment\n{"a":1}', b'holdfast-1 report_ack\n{"a":1}'}


@pytest.mark.parametrize("document", [Hello, Presence, CoordinatorHere, DeviceState, ReportAck, Assignment])
def test_the_largest_legal_document_fits_its_bound(document: type) -> None:
    bounds = {channel.document: channel.bytes_max for channel in CHANNELS}
    assert len(encode(largest(document))) <= bounds[document]


def test_the_largest_state_is_taken_and_fits_a_frame_of_the_sync_socket() -> None:
    state = largest(DeviceState)
    assert len(state.models) == limits.MODELS_PER_DEVICE_MAX
    raw = encode(state)
    assert len(raw) > limits.MIB and parse_device_state(raw) == state
    assert limits.DEVICE_STATE_BYTES_MAX < wire.PAYLOAD_BYTES_MAX


def test_the_largest_question_for_a_part_fits_its_bound() -> None:
    get = msgspec.structs.replace(largest(Get), kind=Kind.MANIFEST, name="a" * 64)
    assert parse_get(encode(get)) == get


def test_one_report_of_any_size_fits_a_batch_and_a_hundred_plain_ones_do() -> None:
    report = largest(Report)
    assert parse_report(encode(report)) == report
    batch = ReportBatch(report.device_id, report.incarnation, report.number - 1, (report,))
    assert parse_report_batch(encode(batch)) == batch
    plain = Report(
        "d" * 64, "i" * 36, 1, limits.RELEASE_MAX, ReportKind.QUARANTINED, "m" * 64, "a" * 64, "v" * 64, "verified",
        "metadata_rollback", "x" * limits.DETAIL_CHARS_MAX,
    )  # fmt: skip
    many = tuple(msgspec.structs.replace(plain, number=n) for n in range(1, limits.REPORTS_PER_BATCH_MAX + 1))
    full = ReportBatch(plain.device_id, plain.incarnation, 0, many)
    assert parse_report_batch(encode(full)) == full
    assert limits.REPORT_BATCH_BYTES_MAX < wire.PAYLOAD_BYTES_MAX


def test_the_largest_envelope_is_taken() -> None:
    whole = largest(Assignment)
    assert parse_assignment(encode(whole)) == whole
    largest_payload = bytes(limits.ASSIGNMENT_BYTES_MAX)
    envelope = Envelope(largest_payload, bytes(64), must_understand=("must_understand",) * limits.MUST_UNDERSTAND_MAX)
    assert parse_envelope(encode(envelope)) == envelope
    for kind in (Assignment, ReportAck):
        assert len(encode(largest(kind))) <= limits.ASSIGNMENT_BYTES_MAX


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter with + takes this topic."""
    levels = zip(pattern.split("/"), topic.split("/"), strict=True)
    return all(want in ("+", have) for want, have in levels)
