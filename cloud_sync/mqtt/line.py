"""The connection to the broker: kept up with full jitter, everything said again on each; messages to whom they concern.

What they mean is decided in `coordinator`; parts are answered in parts.py. Nothing that comes in may stop the receiver.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiomqtt import Client, Message, MqttError, ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cloud_sync import limits
from cloud_sync.coordinator.conversation import Conversation
from cloud_sync.coordinator.memory import Memory
from cloud_sync.coordinator.metrics import Metrics
from cloud_sync.coordinator.planner import Planner
from cloud_sync.mqtt.allowance import Allowance
from cloud_sync.mqtt.parts import Answer, Parts
from cloud_sync.mqtt.settings import BrokerSettings
from edge_agent.contract import canonical, topics
from edge_agent.contract import limits as contract_limits
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.presence import CONTRACT_VERSIONS, CoordinatorHere
from edge_agent.contract.reasons import Reason
from edge_agent.contract.topics import Channel

log = structlog.get_logger()

REFUSED_FROM = 0x80  # reason codes of a SUBACK (MQTT 5, 3.9.3)
ERROR_CHARS_MAX = 300  # of a log line about what somebody else wrote


class Line:
    """Also the planner's Outbound. `run` it as a task; cancel it to end it."""

    def __init__(
        self,
        settings: BrokerSettings,
        memory: Memory,
        conversation: Conversation,
        planner: Planner,
        parts: Parts,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._planner = planner
        self._parts = parts
        self._metrics = metrics
        self._client: Client | None = None
        self._at_once = asyncio.Semaphore(limits.PUBLISHES_AT_ONCE)
        self._answers: set[asyncio.Task[None]] = set()
        self._allowance = Allowance(limits.SAID_BURST_BYTES, limits.SAID_BYTES_PER_S, limits.DEVICES_MAX)
        self._chance = random.SystemRandom()
        self._says: dict[Channel, Callable[[str, bytes], Awaitable[None] | None]] = {
            topics.HELLO: conversation.hello,
            topics.PRESENCE: conversation.presence,
            topics.STATE: conversation.state,
            topics.REPORTS: conversation.reports,
        }

    async def run(self) -> None:
        """Connect, and again whenever the connection ends, until cancelled."""
        failures = 0
        try:
            while True:  # until cancelled
                if self._memory.replaced:  # two under one user name would throw each other off without an end
                    await asyncio.sleep(limits.RECONNECT_BASE_S)
                    continue
                began_s = time.monotonic()
                client = None
                try:
                    client = self._connected()
                    async with client:
                        await self._talk(client)
                except (MqttError, HoldfastError, OSError) as error:
                    log.warning("broker_away", error=str(error), broker=f"{self._settings.host}:{self._settings.port}")
                finally:
                    self._client = None
                    self._memory.line_is_down()
                    _hang_up(client)
                failures = 0 if time.monotonic() - began_s > limits.STEADY_S else failures + 1
                most = min(limits.RECONNECT_MAX_S, limits.RECONNECT_BASE_S * 2 ** min(failures, 16))
                await asyncio.sleep(self._chance.uniform(0, most))
        finally:
            for task in self._answers:
                task.cancel()

    # ---- going out

    async def assignments(self, device_ids: Sequence[str]) -> None:
        """Publish the present assignments of these devices, if there is a connection; else connecting does it."""
        await asyncio.gather(*(self._assignment(device_id) for device_id in device_ids))

    async def acknowledge(self, device_id: str, envelope: bytes) -> None:
        """Publish a ReportAck; a lost one is asked for again."""
        async with self._at_once:
            await self._publish(topics.ACK, device_id, envelope)

    async def _assignment(self, device_id: str) -> None:
        async with self._at_once:
            record = self._memory.records.get(device_id)
            envelope = None if record is None else self._planner.envelope(record)
            if envelope is not None:  # made here, with nothing awaited before it is queued: never an older one later
                await self._publish(topics.ASSIGNMENT, device_id, envelope)

    async def got(self, device_id: str, answer: Answer) -> bool:
        """Answer a request for a part, with its own correlation data; whether the broker has it."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = topics.GOT.expiry_s
        properties.UserProperty = list(answer.words)
        if answer.correlation is not None:
            properties.CorrelationData = answer.correlation
        return await self._publish(topics.GOT, device_id, answer.content, properties)

    async def _publish(
        self, channel: Channel, device_id: str, payload: bytes, properties: Properties | None = None
    ) -> bool:
        client = self._client
        if client is None:
            return False
        try:
            await client.publish(
                channel.topic(device_id), payload, qos=channel.qos, retain=channel.retain, properties=properties
            )
        except (MqttError, ValueError) as error:
            log.warning("not_published", channel=channel.name, device=device_id, error=str(error))
            return False
        return True

    # ---- coming in

    def _connected(self) -> Client:
        settings = self._settings
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = contract_limits.MQTT_PACKET_BYTES_MAX
        properties.SessionExpiryInterval = 0
        return Client(
            settings.host,
            settings.port,
            username=settings.username,
            password=settings.password(),
            identifier=f"coordinator-{uuid.uuid4().hex[:12]}",
            protocol=ProtocolVersion.V5,
            clean_start=True,
            properties=properties,
            tls_context=settings.tls(),
            keepalive=limits.KEEPALIVE_S,
            timeout=limits.CONNECT_TIMEOUT_S,
            max_queued_incoming_messages=limits.MESSAGES_WAITING_MAX,
            logger=logging.getLogger("holdfast.mqtt"),
        )

    async def _talk(self, client: Client) -> None:
        for granted in await client.subscribe(topics.all_up(), qos=1):
            if (granted if isinstance(granted, int) else granted.value) >= REFUSED_FROM:
                raise Unavailable(
                    f"the broker does not let {self._settings.username} hear the devices",
                    next_step="Check --username and the broker's access list",
                )
        self._client = client
        self._memory.line_is_up()
        log.info("broker_connected", broker=f"{self._settings.host}:{self._settings.port}")
        self._beside(self._say_everything(client))
        self._planner.wake()
        async for message in client.messages:
            self._take(message)
            while len(self._answers) > limits.ANSWERS_WAITING_MAX:
                await asyncio.wait(self._answers, return_when=asyncio.FIRST_COMPLETED)

    async def _say_everything(self, client: Client) -> None:
        """A broker that lost everything is normal: all assignments again, then the call for hellos."""
        await self.assignments(sorted(self._memory.records))
        count = len(self._memory.records)
        spread_s = min(limits.SPREAD_MAX_S, max(limits.SPREAD_S, count * limits.SPREAD_PER_DEVICE_S))
        here = CoordinatorHere(uuid.uuid4().hex, spread_s, CONTRACT_VERSIONS)
        if self._client is client:
            await self._publish(topics.COORDINATOR, "", canonical.encode(here))

    def _take(self, message: Message) -> None:
        """One message; whatever is wrong with it is said and counted, and the next one is taken."""
        topic = str(message.topic)
        found = topics.device_and_channel(topic)
        if found is None or not isinstance(message.payload, bytes):
            self._refuse(topic, None, Rejected("an unknown topic"))
            return
        device_id, channel = found
        try:
            least = 0 if channel is topics.GET else limits.SAID_BYTES_MIN  # gets have bounds of their own
            if not self._allowance.grants(device_id, max(len(message.payload), least), time.monotonic()):
                raise Rejected(f"{device_id} says too much", reason=Reason.TOO_LARGE)
            if channel is topics.GET:
                correlation = getattr(message.properties, "CorrelationData", None)
                self._parts.ask(device_id, message.payload, correlation, self.got)
                return
            take = self._says.get(channel)
            if take is None:
                raise Rejected("nobody says that to a coordinator")
            rest = take(device_id, message.payload)
        except Rejected as error:
            self._refuse(topic, device_id, error)
            return
        except Exception:  # our bug, and one device must not take the line from all others
            log.exception("message_not_handled", topic=topic, device=device_id)
            self._metrics.messages_refused.labels("bug").inc()
            return
        if rest is not None:
            self._beside(rest)

    def _refuse(self, topic: str, device_id: str | None, error: Rejected) -> None:
        reason = error.reason.value if error.reason else "unknown"
        self._metrics.messages_refused.labels(reason).inc()
        log.warning(
            "message_refused", topic=topic[:200], device=device_id, reason=reason, error=error.message[:ERROR_CHARS_MAX]
        )

    def _beside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._logged(work))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _logged(self, work: Awaitable[None]) -> None:
        try:
            await work
        except HoldfastError as error:
            log.error("not_answered", error=str(error))
        except Exception:  # our bug: said, counted, and nobody else's answer is lost for it
            log.exception("answer_failed")
            self._metrics.messages_refused.labels("bug").inc()


def _hang_up(client: Client | None) -> None:
    """After a message that is none, or a time-out, aiomqtt leaves its socket open, and goes on reading from it."""
    if client is not None and client._client.socket() is not None:
        client._client._sock_close()
