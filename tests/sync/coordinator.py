"""The coordinator's end of the line, scripted: it hears everything, answers what it has, signs nothing. The real one is
in cloud_sync.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.contract import topics
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.topics import Channel
from edge_agent.contract.transfer import STATUS, TOTAL_BYTES, Get, Kind, parse_get
from tests.harness.agent import wait_until
from tests.harness.broker import HOST, Broker
from tests.sync.runtime import DEVICE

Thing = tuple[Kind, str]


class ScriptedCoordinator:
    """Connected as the user `coordinator`. `gate` decides on each question: the status to answer, None = silence."""

    def __init__(self, broker: Broker) -> None:
        self.heard: dict[str, list[bytes]] = {channel.name: [] for channel in topics.CHANNELS}
        self.things: dict[Thing, bytes] = {}
        self.asked: list[Get] = []
        self.gate: Callable[[Get], int | None] = lambda _get: 200
        self.answers_hello: list[tuple[Channel, bytes]] = []
        self._lock = threading.Lock()
        client = self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.username_pw_set("coordinator", broker.password("coordinator"))
        client.on_message = self._on_message
        client.on_connect = lambda *_: client.subscribe(topics.all_up(), 1)
        client.reconnect_delay_set(0.1, 0.5)
        client.connect(HOST, broker.port)
        client.loop_start()
        wait_until(client.is_connected, "the scripted coordinator is connected")

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for this."""
        wait_until(condition, what)

    def serve_repository(self, folder: Path) -> None:
        """Have everything that the publisher's repository has, as it is now."""
        things: dict[Thing, bytes] = {}
        for path in (folder / "metadata").iterdir():
            things[Kind.METADATA, path.name] = path.read_bytes()
        for path in (folder / "manifests").glob("*/*.json"):
            raw = path.read_bytes()
            things[Kind.MANIFEST, sha256_hex(raw)] = raw
        for path in (folder / "chunks").rglob("*"):
            if path.is_file():
                things[Kind.CHUNK, sha256_hex(path.read_bytes())] = path.read_bytes()
        for path in folder.glob("coordinator.json"):
            things[Kind.COORDINATOR, path.name] = path.read_bytes()
        self.things = things

    def say(self, channel: Channel, payload: bytes, **options: Any) -> None:
        """Publish to the device, and wait for the broker."""
        info = self._client.publish(channel.topic(DEVICE), payload, 1, **{"retain": channel.retain, **options})
        info.wait_for_publish(10.0)

    def say_at(self, topic: str, payload: bytes) -> None:
        """Publish anywhere."""
        self._client.publish(topic, payload, 1).wait_for_publish(10.0)

    def documents(self, channel: Channel) -> list[Any]:
        """What was heard on this channel, parsed."""
        assert channel.document is not None
        return [msgspec.json.decode(raw, type=channel.document) for raw in self.heard[channel.name]]

    def asked_for(self, kind: Kind) -> list[Get]:
        """Questions of this kind, in order."""
        return [get for get in self.asked if get.kind is kind]

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        found = topics.device_and_channel(message.topic)
        assert found is not None
        channel = found[1]
        self.heard[channel.name].append(message.payload)
        if channel is topics.GET:
            self._answer(parse_get(message.payload), message.properties)
        if channel is topics.HELLO:
            for answer, payload in self.answers_hello:
                self._client.publish(answer.topic(DEVICE), payload, answer.qos, retain=answer.retain)

    def _answer(self, get: Get, asked: Any) -> None:
        self.asked.append(get)
        status = self.gate(get)
        if status is None:
            return
        whole = self.things.get((get.kind, get.name))
        if status == 200 and whole is None:
            status = 404
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = asked.CorrelationData
        properties.MessageExpiryInterval = topics.GOT.expiry_s
        properties.UserProperty = [(STATUS, str(status)), (TOTAL_BYTES, str(len(whole or b"")))]
        part = whole[get.offset : get.offset + get.length] if status == 200 and whole else b""
        self._client.publish(topics.GOT.topic(DEVICE), part, 0, properties=properties)
