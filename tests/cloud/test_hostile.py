"""Hostile, broken and foreign messages: each is counted, and every other device goes on as if nothing had been said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_agent.contract import topics
from edge_agent.contract.canonical import encode
from edge_agent.contract.topics import Channel, Direction
from tests.cloud.conftest import NewDevice
from tests.cloud.device import Device, slot
from tests.cloud.town import Town
from tests.harness.agent import wait_until

UP = [channel for channel in topics.CHANNELS if channel.direction is Direction.UP]
RUBBISH = {
    "nothing": b"",
    "no JSON": b"\xff\x00" * 50,
    "an empty object": b"{}",
    "a list": b"[]",
    "deep": b"[" * 5_000,
    "half a document": b'{"device_id":"d',
    "null bytes": b"\x00" * 1_000,
    "a number": b"1e999",
    "must understand": b'{"must_understand":["x"],"schema":1}',
}


@pytest.mark.parametrize("channel", UP, ids=lambda channel: channel.name)
def test_rubbish_on_any_topic_stops_nobody(town: Town, new_device: NewDevice, channel: Channel) -> None:
    hostile, good = new_device(town, f"hostile-{channel.name}"), new_device(town, f"good-{channel.name}")
    before = refused(town)
    for rubbish in RUBBISH.values():
        hostile.say(channel, rubbish)
    hostile.say(channel, b"x" * (channel.bytes_max + 1))
    if channel is not topics.GET:  # which is answered with 400
        wait_until(lambda: refused(town) >= before + len(RUBBISH) + 1, lambda: f"all are counted: {refused(town)}")
    good.reports(1)
    good.wait_ack(1)
    assert (town.health_or_none() or {})["broker"]["connected"]


def test_topics_that_nobody_knows_stop_nobody(town: Town, new_device: NewDevice) -> None:
    device = new_device(town, "unknown-topics")
    before = refused(town)
    assert device._client is not None
    for name in ("", "shout", "hello2", "ASSIGNMENT", "assignment", "ä"):
        device._client.publish(f"holdfast/1/d/{device.device_id}/up/{name}", b"{}", 1).wait_for_publish(10)
    wait_until(lambda: refused(town) >= before + 6, "all are counted")
    device.reports(1)
    device.wait_ack(1)


def altered(document: dict[str, Any], **changes: Any) -> bytes:
    """A document with other fields, in canonical form."""
    return encode({**document, **changes})


def test_documents_with_lies_change_nothing(town: Town, new_device: NewDevice) -> None:
    device, victim = new_device(town, "lies"), new_device(town, "honest")
    device.hello()
    hello: dict[str, Any] = msgspec.to_builtins(device.hello_document())
    before = refused(town)
    lies = [
        (topics.HELLO, altered(hello, device_id="honest", models=["stolen"])),
        (topics.HELLO, altered(hello, revision=2**50)),
        (topics.HELLO, altered(hello, acknowledged=-1)),
        (topics.HELLO, altered(hello, models=["a" * 65])),
        (topics.HELLO, altered(hello, contracts=[])),
        (topics.PRESENCE, altered(presence_of(victim), online=False)),
    ]
    for channel, lie in lies:
        device.say(channel, lie)
    device.state(tiny=slot(("1.0.0", "a" * 64), generation=2**50))
    wait_until(lambda: refused(town) >= before + len(lies) + 1, lambda: f"all are counted: {refused(town)}")
    assert (town.health_or_none() or {})["planning"]["stopped"] is None
    shown = town.device("honest")
    assert (shown["online"], list(shown["models"])) == (True, ["tiny"])


def test_a_flood_of_hellos_is_bounded_and_others_are_heard(town: Town, new_device: NewDevice) -> None:
    flooder, good = new_device(town, "many-hellos"), new_device(town, "one-hello")
    before = refused(town)
    assert flooder._client is not None
    hello = encode(flooder.hello_document())
    for _ in range(3_000):  # on a busy machine too, faster than the allowance fills again
        flooder._client.publish(topics.HELLO.topic(flooder.device_id), hello, 1)
    good.reports(1)
    good.wait_ack(1)
    wait_until(lambda: refused(town) > before, "some are turned away")
    assert town.device("one-hello")["online"]


def test_a_flood_of_requests_is_bounded_and_its_device_can_go_on(town: Town, new_device: NewDevice) -> None:
    flooder, good = new_device(town, "flooder"), new_device(town, "patient")
    for _ in range(500):
        flooder.say(topics.GET, b"{}")
    good.reports(1)
    good.wait_ack(1)
    assert flooder.get_raw(b"{}")[0] == 400


def refused(town: Town) -> float:
    """How many messages were turned away, whatever for."""
    reasons = ("malformed", "too_large", "wrong_device", "unknown", "bug")
    return sum(town.metric(f'holdfast_messages_refused_total{{reason="{reason}"}}') for reason in reasons)


def presence_of(device: Device) -> dict[str, Any]:
    """What a device says of its presence, as plain data."""
    document: dict[str, Any] = msgspec.to_builtins(device.presence(True))
    return document
