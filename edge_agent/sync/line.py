"""The MQTT connection: made again for ever with full jitter, a fresh client each time; messages are sorted by channel.

What is said on it is `talk`'s and `requests`'. aiomqtt and paho-mqtt are known here alone.
"""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import aiomqtt
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.contract import limits, topics
from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.contract.topics import Channel
from edge_agent.sync.patience import full_jitter_s
from edge_agent.sync.tally import Tally

log = structlog.get_logger()

ENDED_EARLY = "the broker ended the connection at once (with TLS: it may not trust this device's certificate)"
LOOK_S = 0.1
KEEPALIVE_S = 30  # a link that died without a word is noticed after 45 s at the latest, by both sides
ANSWER_S = 10.0  # of the broker, to anything that it acknowledges
RECEIVE_MAX = 16  # unacknowledged messages from the broker; assignments and acknowledgements are few
RECONNECT_BASE_S = 1.0
RECONNECT_CAP_S = 60.0
REFUSED_CAP_S = 300.0  # a password does not mend itself
STEADY_S = 10.0  # a connection that held so long was a good one: the next pause is short again
NOT_AUTHORISED = (0x86, 0x87)  # bad user name or password, not authorised (MQTT 5, 3.2.2.2)


class LineCut(Unavailable):
    """There is no connection to the broker now, or it ended before the answer came."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are to it. Files are paths. reconnect_cap_s: the longest pause between tries."""

    host: str
    port: int
    username: str
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    reconnect_cap_s: float = RECONNECT_CAP_S

    def password(self) -> str | None:
        """Read anew for each connection: a changed one needs no restart. Raises OSError."""
        if self.password_file is None:
            return None
        with open(self.password_file, encoding="utf-8") as file:
            return file.read(limits.KIB).strip()

    def tls(self) -> aiomqtt.TLSParameters | None:
        """None without an authority to trust: then TLS is not spoken."""
        if self.ca_file is None:
            return None
        for path in (self.ca_file, self.cert_file, self.key_file):
            if path is not None:
                open(path, "rb").close()  # its error names the file, that of ssl does not
        return aiomqtt.TLSParameters(ca_certs=self.ca_file, certfile=self.cert_file, keyfile=self.key_file)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the broker, already known to be ours and within its bound."""

    payload: bytes
    correlation: bytes
    words: Mapping[str, str]  # user properties


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we are gone."""

    connection_id: str
    payload: bytes


Handler = Callable[[Message], None]


class Line:
    """One for the process. handlers: by channel name; they only note what came, and raise nothing.

    on_link: told of each connection before anybody uses it, and why there is none.
    """

    def __init__(
        self,
        broker: Broker,
        device_id: str,
        tally: Tally,
        handlers: Mapping[str, Handler],
        on_link: Callable[[bool, str], None],
    ) -> None:
        self.up = asyncio.Event()
        self.tally = tally
        self._broker = broker
        self._device_id = device_id
        self._handlers = handlers
        self._on_link = on_link
        self._client: aiomqtt.Client | None = None

    async def run(self, will: Callable[[], Awaitable[Will]], talk: Callable[[str], Awaitable[None]]) -> None:
        """Connect again and again; for each connection `talk` runs with its id until the connection ends."""
        attempt = 0
        while True:  # as long as the process lives; each pass holds a connection or waits
            cap_s, reason = self._broker.reconnect_cap_s, None
            began_s = asyncio.get_running_loop().time()
            try:
                await self._connected(await will(), talk)
                detail = "the broker ended the connection"
            except (aiomqtt.MqttError, HoldfastError, OSError, ValueError) as error:  # ValueError: no TLS files
                detail = str(error) or type(error).__name__
                if _is_refusal(error):
                    cap_s, reason = REFUSED_CAP_S, Reason.NOT_AUTHORIZED.value
                    detail = "the broker refuses user name or password"
            if asyncio.get_running_loop().time() - began_s > STEADY_S:
                attempt = 0
            pause_s = full_jitter_s(attempt, random.random(), base_s=RECONNECT_BASE_S, cap_s=cap_s)
            attempt += 1
            log.warning("line_down", reason=reason, detail=detail, again_in_s=round(pause_s, 2), attempt=attempt)
            self._on_link(False, detail)
            await asyncio.sleep(pause_s)

    async def publish(self, channel: Channel, payload: bytes, *, correlation: bytes = b"") -> None:
        """Say this; with quality of service 1 until the broker has it. Raises LineCut."""
        client = self._client
        if client is None:
            raise LineCut("there is no connection to the broker")
        properties = _properties(PacketTypes.PUBLISH)
        if correlation:
            properties.CorrelationData = correlation
        if channel.expiry_s is not None:
            properties.MessageExpiryInterval = channel.expiry_s
        topic = channel.topic(self._device_id)
        try:
            await client.publish(topic, payload, channel.qos, channel.retain, properties, timeout=ANSWER_S)
        except (aiomqtt.MqttError, ValueError) as error:
            raise LineCut(f"could not publish {channel.name}: {error}") from error

    async def _connected(self, will: Will, talk: Callable[[str], Awaitable[None]]) -> None:
        client = self._new_client(will)
        try:
            await _open(client)
            await self._subscribe(client)
            log.info("line_up", connection=will.connection_id)
            self._client = client
            self._on_link(True, "")
            self.up.set()
            await _first_of(talk(will.connection_id), _until_ended(client))
        finally:
            self._client = None
            self.up.clear()
            _hang_up(client)

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        filters = [(topics.all_down(self._device_id), 1), (topics.COORDINATOR.topic(), 0)]
        for granted in await client.subscribe(filters, timeout=ANSWER_S):
            code = granted if isinstance(granted, int) else granted.value
            if code >= 0x80:
                raise aiomqtt.MqttCodeError(code if isinstance(granted, int) else granted)

    def _new_client(self, will: Will) -> aiomqtt.Client:
        connect = _properties(PacketTypes.CONNECT)
        connect.SessionExpiryInterval = 0
        connect.ReceiveMaximum = RECEIVE_MAX
        connect.MaximumPacketSize = limits.MQTT_PACKET_BYTES_MAX
        inbox = functools.partial(_Inbox, take=self._take)
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=self._broker.password(),
            identifier=self._device_id,  # a connection that is half dead is replaced, not kept beside the new one
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            properties=connect,
            will=aiomqtt.Will(topics.PRESENCE.topic(self._device_id), will.payload, qos=topics.PRESENCE.qos),
            keepalive=KEEPALIVE_S,
            timeout=ANSWER_S,
            queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", inbox),
            tls_params=self._broker.tls(),
        )

    def _take(self, message: aiomqtt.Message) -> None:
        """Sort one message; what is not for us or too large is counted and gone."""
        topic, payload = str(message.topic), message.payload
        if topic == topics.COORDINATOR.topic():
            channel: Channel | None = topics.COORDINATOR
        else:
            found = topics.device_and_channel(topic)
            ours = found is not None and found[0] == self._device_id
            channel = found[1] if found is not None and ours else None
        handler = self._handlers.get(channel.name) if channel is not None else None
        if channel is None or handler is None:
            self.tally.note("foreign_topic", topic)
        elif not isinstance(payload, bytes) or len(payload) > channel.bytes_max:
            self.tally.note("oversized", f"{channel.name}: {len(payload)} bytes")
        else:
            properties = message.properties
            words = dict(getattr(properties, "UserProperty", ())) if properties is not None else {}
            handler(Message(payload, getattr(properties, "CorrelationData", b""), words))


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """Stands where aiomqtt keeps its queue: messages are handed on at once, so that a flood cannot pile up, and nothing
    is thrown away because a queue is full.
    """

    def __init__(self, maxsize: int = 0, *, take: Callable[[aiomqtt.Message], None]) -> None:
        super().__init__(maxsize)
        self._take = take

    def put_nowait(self, item: aiomqtt.Message) -> None:
        """Called by aiomqtt for each message."""
        self._take(item)


async def _open(client: aiomqtt.Client) -> None:
    """Connect. Raises MqttError. A connection that ends before the broker said anything is noticed here: aiomqtt would
    wait for the whole time-out, and not know why.
    """
    opening = asyncio.create_task(client.__aenter__())
    try:
        while not opening.done():  # bounded by the client's own time-outs
            await asyncio.wait((opening,), timeout=LOOK_S)
            had_socket, has_socket = client._misc_task is not None, client._client.socket() is not None
            waiting = not (opening.done() or client._connected.done())
            if waiting and had_socket and not has_socket:
                raise aiomqtt.MqttError(ENDED_EARLY)
    finally:
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    opening.result()


async def _until_ended(client: aiomqtt.Client) -> None:
    async for _ in client.messages:  # never one: see _Inbox. It raises MqttError when the connection ends
        pass


async def _first_of(*coroutines: Any) -> None:
    """Run these until one ends; its error is raised, the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


def _hang_up(client: aiomqtt.Client) -> None:
    """End it without a goodbye, so that the last will is said. A client whose connecting timed out keeps its socket,
    and would answer to our name.
    """
    if client._client.socket() is not None:
        client._client._sock_close()


def _is_refusal(error: BaseException) -> bool:
    if not isinstance(error, aiomqtt.MqttCodeError):
        return False
    code = error.rc if isinstance(error.rc, int) else getattr(error.rc, "value", None)
    return code in NOT_AUTHORISED


def new_connection_id() -> str:
    """Tells a new connection from the last will of an old one."""
    return secrets.token_hex(8)


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]
