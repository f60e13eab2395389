"""A scripted device: speaks the contract over a real broker, and says what the test tells it to.

The product's own device is `edge_agent`; nothing of it but the contract is here.
"""

from __future__ import annotations

import itertools
import queue
from types import TracebackType
from typing import Any

import msgspec
import paho.mqtt.client as paho
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.contract import topics
from edge_agent.contract.assignment import Assignment, parse_assignment
from edge_agent.contract.canonical import encode
from edge_agent.contract.device_state import (
    AssignedState,
    CandidateState,
    DeviceState,
    SlotState,
    SnapshotRef,
    TurnedAway,
)
from edge_agent.contract.envelope import SignedKind, parse_envelope, signing_input
from edge_agent.contract.presence import CONTRACT_VERSIONS, Hello, Presence
from edge_agent.contract.report import Report, ReportAck, ReportBatch, ReportKind, parse_report_ack
from edge_agent.contract.topics import Channel
from edge_agent.contract.transfer import Get, Kind
from tests.harness.agent import wait_until
from tests.harness.broker import HOST, Broker

WAIT_S = 20.0
_numbers = itertools.count(1)

NOT_RUNNING = SlotState(
    serving=False, status="idle", active=None, last_good=None, wanted=None, candidate=None, assigned=None, reason=None,
    declined=None, turned_away=(), on_disk=(), damaged=(), fallbacks=0,
)  # fmt: skip


def slot(
    active: tuple[str, str] | None = None,
    *,
    generation: int = 0,
    candidate: tuple[str, str, str] | None = None,
    failed: tuple[str, str, str] | None = None,
    blocked: bool = True,
) -> SlotState:
    """A slot of a state document. active: version, digest; candidate: with its phase; failed: with its reason."""
    digest = candidate[1] if candidate else active[1] if active else "0" * 64
    return msgspec.structs.replace(
        NOT_RUNNING,
        serving=active is not None,
        active=SnapshotRef(*active) if active else None,
        candidate=CandidateState(*candidate) if candidate else None,
        assigned=AssignedState(digest, generation, held=False) if generation else None,
        turned_away=(TurnedAway(*failed, blocked=blocked),) if failed else (),
    )


class Device:
    """One connection after the other, as `device_id`. Use with `with`."""

    def __init__(self, broker: Broker, device_id: str, coordinator_key: str) -> None:
        self.device_id = device_id
        self.incarnation = "i1"
        self.models = ("tiny",)
        self.acknowledged = 0
        self.epoch = self.revision = 0
        self._broker = broker
        self._password = broker.add_user(device_id).read_text().strip()
        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(coordinator_key))
        self._client: paho.Client | None = None
        self._number = 0
        self._got: dict[bytes, tuple[dict[str, str], bytes]] = {}
        self.heard: dict[str, queue.Queue[paho.MQTTMessage]] = {}

    def __enter__(self) -> Device:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    # ---- connections

    def connect(self) -> Device:
        """A new connection, with its last will and all subscriptions."""
        self.connection_id = f"{self.device_id}-{next(_numbers)}"
        self.heard = {channel.name: queue.Queue() for channel in topics.CHANNELS}
        client = self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=self.connection_id, protocol=paho.MQTTv5
        )
        client.username_pw_set(self.device_id, self._password)
        client.will_set(topics.PRESENCE.topic(self.device_id), encode(self.presence(False)), qos=1)
        client.on_message = self._on_message
        client.connect(HOST, self._broker.port)
        client.loop_start()
        client.subscribe([(topics.all_down(self.device_id), 1), (topics.COORDINATOR.topic(), 0)])
        wait_until(client.is_connected, f"{self.device_id} is connected")
        return self

    def disconnect(self) -> None:
        """A clean end: no will."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def vanish(self) -> None:
        """The connection breaks: the broker says the will."""
        assert self._client is not None
        self._client._sock_close()  # what a dead link looks like to the broker
        self._client.loop_stop()
        self._client = None

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        name = message.topic.rpartition("/")[2]
        if name == topics.GOT.name:
            words = dict(getattr(message.properties, "UserProperty", []))
            correlation = getattr(message.properties, "CorrelationData", b"")
            self._got[correlation] = (words, message.payload)
        self.heard[name].put(message)

    # ---- saying

    def say(self, channel: Channel, document: Any, properties: Properties | None = None) -> None:
        """Publish a document, or raw bytes, as this device, and wait until the broker has it."""
        assert self._client is not None
        payload = document if isinstance(document, bytes) else encode(document)
        said = self._client.publish(channel.topic(self.device_id), payload, channel.qos, properties=properties)
        said.wait_for_publish(WAIT_S)

    def hello(self, **changes: Any) -> None:
        """Who is there, and how far."""
        self.say(topics.HELLO, self.hello_document(**changes))

    def hello_document(self, **changes: Any) -> Hello:
        """What `hello` says."""
        told: dict[str, Any] = {
            "device_id": self.device_id, "connection_id": self.connection_id, "agent_version": "0.1.0",
            "contracts": CONTRACT_VERSIONS, "device_type": "x86_64", "models": self.models, "engines": ("numpy",),
            "incarnation": self.incarnation, "acknowledged": self.acknowledged, "epoch": self.epoch,
            "revision": self.revision, "state_digest": "0" * 64,
        }  # fmt: skip
        return Hello(**{**told, **changes})

    def online(self) -> None:
        """Presence."""
        self.say(topics.PRESENCE, self.presence(True))

    def state(self, **slots: SlotState) -> None:
        """All that it runs."""
        self._number += 1
        self.say(
            topics.STATE,
            DeviceState(
                self.device_id, self.connection_id, self._number, 1_700_000_000_000, "0.1.0", self.epoch, self.revision,
                None, slots,
            ),
        )  # fmt: skip

    def reports(self, *numbers: int, after: int | None = None, **changes: Any) -> None:
        """A batch with reports of these numbers."""
        after = self.acknowledged if after is None else after
        reports = tuple(
            Report(self.device_id, self.incarnation, number, 1_700_000_000_000 + number, ReportKind.PHASE, "tiny")
            for number in numbers
        )
        batch = ReportBatch(self.device_id, self.incarnation, after, reports)
        self.say(topics.REPORTS, msgspec.structs.replace(batch, **changes))

    def presence(self, online: bool) -> Presence:
        """What it says of itself, or the broker in its name."""
        return Presence(self.device_id, self.connection_id, online, "0.1.0")

    # ---- hearing

    def next(self, channel: Channel, timeout_s: float = WAIT_S) -> paho.MQTTMessage:
        """The next message on this channel."""
        try:
            return self.heard[channel.name].get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"{self.device_id} heard nothing on {channel.name}") from None

    def next_assignment(self) -> Assignment:
        """The next assignment, its signature checked; this device has taken it then. One that is older than what it has
        is passed over, as a device does.
        """
        for _ in range(100):
            assignment = parse_assignment(self._opened(topics.ASSIGNMENT))
            assert assignment.device_id == self.device_id
            if (assignment.epoch, assignment.revision) >= (self.epoch, self.revision):
                self.epoch, self.revision = assignment.epoch, assignment.revision
                return assignment
        raise AssertionError(f"{self.device_id} hears old assignments alone")

    def wait_assignment(self, version: str | None, model: str = "tiny") -> Assignment:
        """The first assignment of this version (None: of none) that comes."""
        for _ in range(100):
            assignment = self.next_assignment()
            if (assignment.models[model].version if model in assignment.models else None) == version:
                return assignment
        raise AssertionError(f"{self.device_id} was never assigned {version}")

    def next_ack(self) -> ReportAck:
        """The next acknowledgement, its signature checked."""
        ack = parse_report_ack(self._opened(topics.ACK))
        assert ack.device_id == self.device_id
        return ack

    def wait_ack(self, committed: int) -> None:
        """Return once exactly this is acknowledged."""
        for _ in range(100):
            if self.next_ack().committed == committed:
                self.acknowledged = committed
                return
        raise AssertionError(f"{self.device_id} was never told that {committed} are committed")

    def get(self, kind: Kind, name: str, offset: int = 0, length: int = 1 << 18) -> tuple[int, int, bytes]:
        """Ask for a part: status, total, content."""
        return self.get_raw(encode(Get(kind, name, offset, length)))

    def get_raw(self, payload: bytes) -> tuple[int, int, bytes]:
        """The same with any bytes as the request."""
        correlation = f"c{next(_numbers)}".encode()
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = correlation
        properties.MessageExpiryInterval = 30
        self.say(topics.GET, payload, properties)
        words, content = wait_until(lambda: self._got.pop(correlation, None), "the part comes", WAIT_S)
        return int(words["status"]), int(words.get("total", "0")), content

    def get_whole(self, kind: Kind, name: str, length: int = 1 << 18) -> bytes:
        """All parts of one thing."""
        found, total = b"", 1
        while len(found) < total:
            status, total, content = self.get(kind, name, len(found), length)
            assert status == 200, (status, name)
            found += content
        return found

    def quiet(self, channel: Channel) -> bool:
        """Whether nothing more has come on this channel."""
        return self.heard[channel.name].empty()

    def _opened(self, channel: Channel) -> bytes:
        envelope = parse_envelope(self.next(channel).payload)
        kind = SignedKind.ASSIGNMENT if channel is topics.ASSIGNMENT else SignedKind.REPORT_ACK
        self._key.verify(envelope.signature, signing_input(kind, envelope.payload))
        return envelope.payload
