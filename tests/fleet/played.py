"""Devices that are played: MQTT clients that speak the contract and do with an assignment what the test says.

The real device's end of the line is `edge_agent.sync`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.contract import topics
from edge_agent.contract.assignment import Assignment, ModelAssignment, parse_assignment
from edge_agent.contract.canonical import encode, sha256_hex
from edge_agent.contract.device_state import AssignedState, DeviceState, SlotState, SnapshotRef, TurnedAway
from edge_agent.contract.envelope import parse_envelope
from edge_agent.contract.presence import CONTRACT_VERSIONS, Hello, Presence
from edge_agent.contract.report import Report, ReportBatch, ReportKind
from tests.harness.broker import HOST, Broker

FACTORY = SnapshotRef("0.9.0", "0" * 64)
AT_UNIX_MS = 1_800_000_000_000  # by the device's clock, which is nobody else's

Plays = Callable[["PlayedDevice", str, ModelAssignment], None]


def empty_slot(**changes: Any) -> SlotState:
    """A slot that serves the factory snapshot."""
    slot = SlotState(
        serving=True, status="serving", active=FACTORY, last_good=None, wanted=FACTORY, candidate=None, assigned=None,
        reason=None, declined=None, turned_away=(), on_disk=(), damaged=(), fallbacks=0,
    )  # fmt: skip
    return msgspec.structs.replace(slot, **changes)


def taken(wish: ModelAssignment) -> AssignedState:
    """An assignment as a device says that it has taken it."""
    return AssignedState(wish.digest, wish.generation, held=False)


def serves(device: PlayedDevice, model: str, wish: ModelAssignment) -> None:
    """Does at once what is wished."""
    snapshot = SnapshotRef(wish.version, wish.digest)
    device.tell(model, active=snapshot, wanted=snapshot, assigned=taken(wish))


def refuses(reason: str, detail: str = "") -> Plays:
    """Finds fault with whatever is wished, for this reason, and goes on serving what it served."""

    def play(device: PlayedDevice, model: str, wish: ModelAssignment) -> None:
        away = TurnedAway(wish.version, wish.digest, reason, blocked=True, detail=detail)
        device.tell(model, assigned=taken(wish), turned_away=(away,))

    return play


def waits(device: PlayedDevice, model: str, wish: ModelAssignment) -> None:
    """Takes the wish and does nothing about it yet."""
    device.tell(model, assigned=taken(wish))


class PlayedDevice:
    """One device, connected while in its `with` block. plays: what it does with each wish for a model."""

    def __init__(
        self, broker: Broker, device_id: str, plays: Plays = serves, models: tuple[str, ...] = ("tiny",)
    ) -> None:
        self.device_id = device_id
        self.plays = plays
        self.slots = {model: empty_slot() for model in models}
        self.wishes: list[Assignment] = []
        self._broker = broker
        self._lock = threading.RLock()  # the client's thread hears wishes, the test's tells states
        self._number = 0
        self._revision = self._epoch = 0
        self._client: Client | None = None

    def __enter__(self) -> PlayedDevice:
        gone = encode(Presence(self.device_id, "c1", online=False, agent_version="0.1.0"))
        client = self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=self.device_id, protocol=MQTTProtocolVersion.MQTTv5
        )
        client.username_pw_set(self.device_id, self._broker.add_user(self.device_id).read_text().strip())
        client.will_set(topics.PRESENCE.topic(self.device_id), gone, qos=1)
        client.on_connect = lambda *_: self._connected(client)
        client.on_message = lambda _client, _data, message: self._hear(message)
        client.connect(HOST, self._broker.port)
        client.loop_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Say goodbye, as a device that is switched off in order."""
        if self._client is None:
            return
        presence = encode(Presence(self.device_id, "c1", online=False, agent_version="0.1.0"))
        self._client.publish(topics.PRESENCE.topic(self.device_id), presence, qos=1).wait_for_publish(10)
        self._client.disconnect()
        self._client.loop_stop()
        self._client = None

    def tell(self, model: str, **changes: Any) -> None:
        """Another state of this slot, said to the coordinator."""
        with self._lock:
            self.slots[model] = msgspec.structs.replace(self.slots[model], **changes)
            self._say(topics.STATE, self._state())

    def report(self, number: int, kind: ReportKind, **facts: Any) -> None:
        """One fact, in a batch of its own."""
        one = Report(self.device_id, "i1", number, AT_UNIX_MS, kind, **facts)
        self._say(topics.REPORTS, ReportBatch(self.device_id, "i1", number - 1, (one,)))

    def _connected(self, client: Client) -> None:
        client.subscribe([(topics.all_down(self.device_id), 1), (topics.COORDINATOR.topic(), 1)])
        self._greet()

    def _greet(self) -> None:
        with self._lock:
            state = self._state()
            hello = Hello(
                device_id=self.device_id, connection_id="c1", agent_version="0.1.0", contracts=CONTRACT_VERSIONS,
                device_type="x86_64", models=tuple(self.slots), engines=("numpy",), incarnation="i1", acknowledged=0,
                epoch=self._epoch, revision=self._revision, state_digest=sha256_hex(encode(state)),
            )  # fmt: skip
            self._say(topics.HELLO, hello)
            self._say(topics.PRESENCE, Presence(self.device_id, "c1", online=True, agent_version="0.1.0"))
            self._say(topics.STATE, state)

    def _hear(self, message: MQTTMessage) -> None:
        if message.topic == topics.COORDINATOR.topic():
            self._greet()
        elif message.topic == topics.ASSIGNMENT.topic(self.device_id):
            wish = parse_assignment(parse_envelope(bytes(message.payload)).payload)
            with self._lock:
                if (wish.epoch, wish.revision) <= (self._epoch, self._revision):
                    return
                self._epoch, self._revision = wish.epoch, wish.revision
                self.wishes.append(wish)
            for model, one in wish.models.items():
                now = self.slots[model].assigned
                if now is None or (now.digest, now.generation) != (one.digest, one.generation):
                    self.plays(self, model, one)

    def _state(self) -> DeviceState:
        self._number += 1
        return DeviceState(
            device_id=self.device_id, connection_id="c1", number=self._number, at_unix_ms=AT_UNIX_MS,
            agent_version="0.1.0", epoch=self._epoch, revision=self._revision, storage=None, models=dict(self.slots),
        )  # fmt: skip

    def _say(self, channel: topics.Channel, document: Any) -> None:
        assert self._client is not None, f"{self.device_id} is not connected"
        self._client.publish(channel.topic(self.device_id), encode(document), qos=channel.qos)
