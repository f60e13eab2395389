"""What the broker takes at most, what it forgets, and how it learns of a new user while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest

from edge_agent.contract import limits, topics
from tests.broker.clients import LAST, as_user, hears, line, refusal, say, topics_until
from tests.harness.agent import ROOT
from tests.harness.broker import HOST, Broker
from tests.harness.processes import is_alive

CONFIGURATION = (ROOT / "packaging" / "broker" / "mosquitto.conf").read_text()
LARGEST_LENGTH = b"\xff\xff\xff\x7f"  # 256 MiB, what the protocol can say


def is_cut_off(stranger: socket.socket) -> bool:
    """Whether the broker ends this connection. Raises TimeoutError when it does not."""
    with contextlib.suppress(ConnectionResetError):
        while stranger.recv(64):
            pass
    return True


def test_the_largest_packet_is_the_one_of_the_contract() -> None:
    (said,) = re.findall(r"^max_packet_size (\d+)$", CONFIGURATION, re.MULTILINE)
    assert int(said) == limits.MQTT_PACKET_BYTES_MAX


def test_the_largest_state_of_a_device_arrives(broker: Broker) -> None:
    async def play() -> object:
        async with as_user(broker, "coordinator") as coordinator, as_user(broker, "d1") as d1:
            await coordinator.subscribe(topics.all_up())
            await say(d1, topics.STATE.topic("d1"), bytes(limits.DEVICE_STATE_BYTES_MAX))
            async with asyncio.timeout(20):
                message = await anext(coordinator.messages)
            return message.payload

    assert asyncio.run(play()) == bytes(limits.DEVICE_STATE_BYTES_MAX)


def test_a_packet_that_is_too_large_ends_its_sender_and_nobody_else(broker: Broker) -> None:
    async def play() -> list[str]:
        async with line(broker, "d2", "coordinator") as (d2, coordinator):
            with pytest.raises(aiomqtt.MqttError):
                # MQTT 3.1.1: a client that was not told the bound; cut off while it publishes, it may not notice
                async with as_user(broker, "d1", protocol=aiomqtt.ProtocolVersion.V311, timeout=2.0) as d1:
                    await d1.publish(topics.STATE.topic("d1"), bytes(limits.MQTT_PACKET_BYTES_MAX))
                    await topics_until(d1, "nothing")
            await say(d2, topics.STATE.topic("d2"), LAST)
            return await topics_until(coordinator, topics.STATE.topic("d2"))

    assert asyncio.run(play()) == []
    assert is_alive(broker.pid)


@pytest.mark.parametrize("first", [b"\x10", b"\x30", b"\x00", b"\xf0"], ids=["connect", "publish", "zero", "auth"])
def test_a_stranger_who_announces_a_giant_packet_is_cut_off(broker: Broker, first: bytes) -> None:
    with socket.create_connection((HOST, broker.port), timeout=20) as stranger:
        stranger.sendall(first + LARGEST_LENGTH)
        assert is_cut_off(stranger)
    assert is_alive(broker.pid)


def test_a_new_user_is_let_in_and_nobody_is_dropped(own_broker: Broker) -> None:
    async def play() -> list[str]:
        async with line(own_broker, "d1", "coordinator") as (d1, coordinator):
            before = own_broker.pid
            own_broker.add_user("d3")
            async with line(own_broker, "d3") as (d3,):
                assert await hears(d3, coordinator, "d3") == []
                await say(d3, topics.STATE.topic("d3"), LAST)
                assert await topics_until(coordinator, topics.STATE.topic("d3")) == []
            assert own_broker.pid == before
            return await hears(d1, coordinator, "d1")

    assert asyncio.run(play()) == []


def test_a_new_password_ends_the_old_one(own_broker: Broker) -> None:
    old = own_broker.password("d1")
    own_broker.add_user("d1")
    assert own_broker.password("d1") != old
    assert "authori" in asyncio.run(refusal(own_broker, username="d1", password=old))

    async def play() -> None:
        async with as_user(own_broker, "d1"):
            pass

    asyncio.run(play())


def test_passwords_are_for_their_owner_alone(own_broker: Broker) -> None:
    for path in (own_broker.folder / "passwords", own_broker.folder / "d1.password"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert own_broker.password("d1") not in (own_broker.folder / "passwords").read_text()


@pytest.mark.parametrize("end", [Broker.kill, Broker.stop])
def test_a_broker_that_was_ended_knows_its_users_and_nothing_else(own_broker: Broker, end: Callable[..., None]) -> None:
    async def play() -> list[str]:
        async with as_user(own_broker, "coordinator") as coordinator:
            await say(coordinator, topics.ASSIGNMENT.topic("d1"), retain=True)
        port = own_broker.port
        end(own_broker)
        assert own_broker.start().port == port
        async with line(own_broker, "d1", "coordinator") as (d1, coordinator):
            return await hears(d1, coordinator, "d1")

    assert asyncio.run(play()) == []


def test_a_second_broker_in_the_same_folder_is_refused(own_broker: Broker) -> None:
    with pytest.raises(AssertionError, match="a broker runs in"), Broker(own_broker.folder):
        pass
    assert is_alive(own_broker.pid)


def test_a_broker_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as other, pytest.raises(AssertionError, match="already in use"):
        broker = Broker(tmp_path / "broker")
        broker.port = other.getsockname()[1]
        with broker:
            pass
