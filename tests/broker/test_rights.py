"""Who may say and hear what at the broker: what arrives is asserted, for the broker grants every subscription."""

from __future__ import annotations

import asyncio

import aiomqtt
import pytest

from edge_agent.contract import topics
from tests.broker.clients import LAST, as_user, cut, hears, line, refusal, say, topics_until
from tests.harness.broker import Broker

UP = [channel for channel in topics.CHANNELS if channel.direction is topics.Direction.UP]
DOWN = [channel for channel in topics.CHANNELS if channel.direction is topics.Direction.DOWN]
FROM_D1, FROM_D2 = (sorted(channel.topic(name) for channel in UP) for name in ("d1", "d2"))


def test_a_device_hears_what_is_said_to_it_and_to_all_and_nothing_else(broker: Broker) -> None:
    async def play() -> set[str]:
        async with line(broker, "d1", "d2", "coordinator") as (d1, d2, coordinator):
            for channel in DOWN:
                await say(coordinator, channel.topic("d2"))
                await say(coordinator, channel.topic("d1"))
            await say(coordinator, topics.COORDINATOR.topic())
            for channel in UP:
                await say(d2, channel.topic("d2"))
            return set(await hears(d1, coordinator, "d1"))

    assert asyncio.run(play()) == {*(channel.topic("d1") for channel in DOWN), topics.COORDINATOR.topic()}


def test_nothing_that_is_retained_for_another_device_is_heard(own_broker: Broker) -> None:
    async def play() -> list[str]:
        async with as_user(own_broker, "coordinator") as coordinator:
            for name in ("d1", "d2"):
                await say(coordinator, topics.ASSIGNMENT.topic(name), retain=True)
            async with line(own_broker, "d1") as (d1,):
                return await hears(d1, coordinator, "d1")

    assert set(asyncio.run(play())) == {topics.ASSIGNMENT.topic("d1")}


def test_a_device_says_only_its_own(broker: Broker) -> None:
    async def play() -> tuple[list[str], list[str], list[str]]:
        async with line(broker, "d1", "d2", "coordinator") as (d1, d2, coordinator):
            for channel in topics.CHANNELS:
                await say(d1, channel.topic("d2"))  # of all: there is one topic only
            for channel in DOWN:
                await say(d1, channel.topic("d1"))  # nobody gives himself an assignment
            for channel in UP:
                await say(d1, channel.topic("d1"))
            await say(d1, topics.STATE.topic("d1"), LAST)
            heard = await topics_until(coordinator, topics.STATE.topic("d1"))
            return heard, await hears(d1, coordinator, "d1"), await hears(d2, coordinator, "d2")

    at_coordinator, at_d1, at_d2 = asyncio.run(play())
    assert sorted(set(at_coordinator)) == FROM_D1
    assert (at_d1, at_d2) == ([], [])


def test_the_coordinator_hears_all_devices_and_cannot_speak_as_one(broker: Broker) -> None:
    async def play() -> list[str]:
        async with line(broker, "d1", "d2", "coordinator") as (d1, d2, coordinator):
            for channel in UP:
                await say(coordinator, channel.topic("d1"))
            await say(coordinator, "elsewhere")
            for channel in UP:
                await say(d2, channel.topic("d2"))
            await say(d1, topics.STATE.topic("d1"), LAST)
            return await topics_until(coordinator, topics.STATE.topic("d1"))

    assert sorted(set(asyncio.run(play()))) == FROM_D2


def test_a_last_will_counts_only_in_the_devices_own_name(broker: Broker) -> None:
    async def play() -> list[str]:
        async with line(broker, "coordinator") as (coordinator,):
            own = topics.PRESENCE.topic("d1")
            for topic in (topics.PRESENCE.topic("d2"), topics.COORDINATOR.topic(), own):
                will = aiomqtt.Will(topic, LAST if topic == own else b"x", qos=1)
                with pytest.raises(aiomqtt.MqttError):  # refused at once, or cut
                    async with as_user(broker, "d1", will=will) as d1:
                        cut(d1)
                        await topics_until(d1, "nothing")
            return await topics_until(coordinator, own)

    assert asyncio.run(play()) == []


def test_nobody_takes_the_connection_of_another_device_by_its_client_id(broker: Broker) -> None:
    async def play() -> list[str]:
        async with line(broker, "coordinator") as (coordinator,), as_user(broker, "d1", identifier="d1") as d1:
            await d1.subscribe(topics.all_down("d1"))
            async with as_user(broker, "d2", identifier="d1") as d2:
                await say(d2, topics.STATE.topic("d2"), LAST)  # it is d2, whatever it calls itself
                await topics_until(coordinator, topics.STATE.topic("d2"))
                await say(d2, topics.STATE.topic("d1"))
            heard = await hears(d1, coordinator, "d1")
            await say(d1, topics.STATE.topic("d1"), LAST)
            return heard + await topics_until(coordinator, topics.STATE.topic("d1"))

    assert asyncio.run(play()) == []


def test_a_second_connection_of_the_same_device_ends_the_first(broker: Broker) -> None:
    async def play() -> None:
        async with as_user(broker, "d1", identifier="first") as first, as_user(broker, "d1", identifier="second"):
            await topics_until(first, "nothing")

    with pytest.raises(aiomqtt.MqttError):
        asyncio.run(play())


@pytest.mark.parametrize(
    "given",
    [
        {"username": "d1", "password": "wrong"},
        {"username": "d1"},
        {"username": "nobody", "password": "x"},
        {"username": "d+", "password": "x"},
        {},
    ],
    ids=["wrong password", "no password", "unknown user", "wildcard", "anonymous"],
)
def test_who_has_no_right_password_is_not_let_in(broker: Broker, given: dict[str, str]) -> None:
    assert "authori" in asyncio.run(refusal(broker, **given))
