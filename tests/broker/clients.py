"""Clients of a real broker, as a device or the coordinator is one; what they may do is asserted in the tests.

The broker grants every subscription, so tests look at what arrives: `topics_until` a last message, published after
all others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt
from aiomqtt import Client, MqttError, ProtocolVersion

from edge_agent.contract import topics
from tests.harness.broker import HOST, Broker

ARRIVES_S = 20.0
LAST = b"last"


def as_user(broker: Broker, name: str, **options: Any) -> Client:
    """A client of this user of the broker, with the password that it was given."""
    return connection(broker, username=name, **{"password": broker.password(name), **options})


def connection(broker: Broker, **options: Any) -> Client:
    """A client with MQTT 5, a clean start and no session, as both sides of the line have it."""
    return Client(HOST, broker.port, **{"protocol": ProtocolVersion.V5, "timeout": ARRIVES_S, **options})


async def say(client: Client, topic: str, payload: bytes = b"x", **options: Any) -> None:
    """Publish with QoS 1; returns when the broker has answered, whatever it answered."""
    with contextlib.suppress(aiomqtt.MqttCodeError):  # not authorised: some versions of the client tell it
        await client.publish(topic, payload, qos=1, **options)


async def topics_until(client: Client, last: str) -> list[str]:
    """Topics of all messages that arrive before the one that says LAST on this topic.

    Other LASTs do not count: several filters matched an earlier one.
    """
    heard: list[str] = []
    async with asyncio.timeout(ARRIVES_S):
        async for message in client.messages:
            if (message.topic.value, message.payload) == (last, LAST):
                return heard
            if message.payload != LAST:
                heard.append(message.topic.value)
    raise AssertionError(f"the connection ended before {last}")


async def hears(client: Client, coordinator: Client, name: str) -> list[str]:
    """What has arrived at this device up to now: the coordinator says one last thing to it."""
    last = topics.ACK.topic(name)
    await say(coordinator, last, LAST)
    return await topics_until(client, last)


@asynccontextmanager
async def line(broker: Broker, *names: str) -> AsyncIterator[list[Client]]:
    """Clients of these users; each has subscribed to all that exists."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for name in names:
            client = await stack.enter_async_context(as_user(broker, name))
            await subscribe_to_all(client)
            clients.append(client)
        yield clients


async def subscribe_to_all(client: Client) -> None:
    """By every way to say it: a message that matches several filters may arrive more than once."""
    for wanted in ("#", "holdfast/#", "holdfast/1/d/+/+/+", topics.all_up(), "$SYS/#", "+/1/all/+"):
        await client.subscribe(wanted, qos=1)


def cut(client: Client) -> None:
    """End the connection as a power failure would: without a goodbye, so that the last will is due."""
    connected = client._client.socket()
    assert isinstance(connected, socket.socket)
    connected.shutdown(socket.SHUT_RDWR)


async def refusal(broker: Broker, **options: Any) -> str:
    """Why the broker does not take a client with these options. Raises AssertionError when it does."""
    try:
        async with connection(broker, **options):
            raise AssertionError("the broker took it")
    except MqttError as error:
        return str(error).lower()
