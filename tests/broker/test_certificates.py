"""The broker with TLS: the common name of a certificate is the user, whatever a client says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from edge_agent.contract import topics
from tests.broker.certificates import Authority
from tests.broker.clients import LAST, connection, say, subscribe_to_all, topics_until
from tests.harness.broker import HOST, Broker


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with tempfile.TemporaryDirectory(prefix="hf-ca-") as folder:
        made = Authority(Path(folder))
        made.issue("localhost", file="server")
        yield made


@pytest.fixture(scope="module")
def broker(authority: Authority) -> Iterator[Broker]:
    """In the folder of the authority."""
    with Broker(authority.folder, certificates=True) as running:
        yield running


def of(broker: Broker, authority: Authority, name: str, **options: Any) -> aiomqtt.Client:
    """A client with a certificate of this name."""
    return connection(broker, tls_context=authority.context(name), **options)


def test_the_name_in_the_certificate_says_who_it_is(broker: Broker, authority: Authority) -> None:
    async def play() -> tuple[list[str], list[str]]:
        async with (
            of(broker, authority, "d1", username="coordinator") as d1,
            of(broker, authority, "coordinator", username="d1") as coordinator,
        ):
            await subscribe_to_all(coordinator)
            await subscribe_to_all(d1)
            for claimed in (topics.STATE.topic("d2"), topics.ASSIGNMENT.topic("d2"), topics.STATE.topic("d1")):
                await say(d1, claimed)
            await say(d1, topics.STATE.topic("d1"), LAST)
            heard = await topics_until(coordinator, topics.STATE.topic("d1"))
            await say(coordinator, topics.ACK.topic("d2"))
            await say(coordinator, topics.ACK.topic("d1"), LAST)
            return heard, await topics_until(d1, topics.ACK.topic("d1"))

    at_coordinator, at_d1 = asyncio.run(play())
    assert set(at_coordinator) == {topics.STATE.topic("d1")}
    assert at_d1 == []


def test_a_certificate_cannot_take_the_connection_of_another_one(broker: Broker, authority: Authority) -> None:
    async def play() -> list[str]:
        async with (
            of(broker, authority, "coordinator") as coordinator,
            of(broker, authority, "d1", identifier="d1") as d1,
        ):
            await d1.subscribe(topics.all_down("d1"))
            async with of(broker, authority, "d2", identifier="d1", username="d1") as d2:
                await say(d2, topics.STATE.topic("d1"))
            await say(coordinator, topics.ACK.topic("d1"), LAST)
            return await topics_until(d1, topics.ACK.topic("d1"))

    assert asyncio.run(play()) == []


def first_answer(broker: Broker, context: ssl.SSLContext | None) -> bytes:
    """What the broker answers to a CONNECT (MQTT 5, clean start, client id d1); nothing when it cuts the connection."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError), connected(broker, context) as stream:
        stream.sendall(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02d1")
        return stream.recv(64)
    return b""


def connected(broker: Broker, context: ssl.SSLContext | None) -> socket.socket:
    stream = socket.create_connection((HOST, broker.port), timeout=20)
    return context.wrap_socket(stream, server_hostname=HOST) if context else stream


def test_who_has_no_certificate_of_the_fleet_is_not_let_in(
    broker: Broker, authority: Authority, tmp_path: Path
) -> None:
    stranger = authority.context(None)  # trusts the broker, and has a certificate of nobody whom the broker knows
    stranger.load_cert_chain(*Authority(tmp_path / "stranger").issue("d1"))
    assert first_answer(broker, authority.context("d1"))[:1] == b"\x20"
    for context in (authority.context(None), stranger, None):
        assert first_answer(broker, context) == b""
