"""The channels between devices and coordinator: topic, direction, document, quality of service and bounds of each.

The AsyncAPI document is made from this table (`tests/tools/asyncapi_doc.py`). No client is known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edge_agent.contract import limits
from edge_agent.contract.assignment import Assignment
from edge_agent.contract.device_state import DeviceState
from edge_agent.contract.envelope import SignedKind
from edge_agent.contract.presence import CoordinatorHere, Hello, Presence
from edge_agent.contract.report import ReportAck, ReportBatch
from edge_agent.contract.transfer import Get

PREFIX = "holdfast/1"


class Direction(StrEnum):
    """Who publishes; the word is a level of the topic, and the broker's access list is written with it."""

    UP = "up"  # by a device, to the coordinator
    DOWN = "down"  # by the coordinator, to one device
    ALL = "all"  # by the coordinator, to every device


@dataclass(frozen=True, slots=True)
class Channel:
    """One kind of message. document: what the payload says, None = raw bytes. signed: the document is in an envelope.

    expiry_s: the broker throws a message away after this time; None = never.
    """

    name: str
    direction: Direction
    says: str
    document: type[Any] | None
    qos: int
    bytes_max: int
    retain: bool = False
    expiry_s: int | None = None
    signed: SignedKind | None = None

    def topic(self, device_id: str = "+") -> str:
        """The topic of this channel for one device; for all of them with the default (a filter)."""
        if self.direction is Direction.ALL:
            return f"{PREFIX}/all/{self.name}"
        return f"{PREFIX}/d/{device_id}/{self.direction}/{self.name}"


HELLO = Channel("hello", Direction.UP, "I am here, and this far", Hello, 1, limits.PRESENCE_BYTES_MAX)
PRESENCE = Channel(
    "presence", Direction.UP, "I am here, or (by the broker) gone", Presence, 1, limits.PRESENCE_BYTES_MAX
)
STATE = Channel("state", Direction.UP, "all that I run", DeviceState, 1, limits.DEVICE_STATE_BYTES_MAX)
REPORTS = Channel("reports", Direction.UP, "facts from the outbox", ReportBatch, 1, limits.REPORT_BATCH_BYTES_MAX)
GET = Channel("get", Direction.UP, "send me this part", Get, 0, limits.GET_BYTES_MAX, expiry_s=limits.GET_EXPIRY_S)
ASSIGNMENT = Channel(
    "assignment", Direction.DOWN, "what this device should run", Assignment, 1, limits.ENVELOPE_BYTES_MAX, retain=True,
    signed=SignedKind.ASSIGNMENT,
)  # fmt: skip
ACK = Channel(
    "ack", Direction.DOWN, "reports that are committed", ReportAck, 1, limits.ENVELOPE_BYTES_MAX,
    signed=SignedKind.REPORT_ACK,
)  # fmt: skip
GOT = Channel("got", Direction.DOWN, "the part that was asked for", None, 0, limits.PART_BYTES_MAX,
              expiry_s=limits.GET_EXPIRY_S)  # fmt: skip
COORDINATOR = Channel(
    "coordinator", Direction.ALL, "a coordinator has connected", CoordinatorHere, 0, limits.PRESENCE_BYTES_MAX
)

CHANNELS = (HELLO, PRESENCE, STATE, REPORTS, GET, ASSIGNMENT, ACK, GOT, COORDINATOR)

_DEVICE_ID = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?"  # what the type DeviceId lets through, no more
_DEVICE_TOPIC = re.compile(rf"{re.escape(PREFIX)}/d/({_DEVICE_ID})/(up|down)/([a-z]+)\Z")
_BY_PLACE = {(channel.direction.value, channel.name): channel for channel in CHANNELS}


def device_and_channel(topic: str) -> tuple[str, Channel] | None:
    """Whose topic this is and what is said there; None for a topic that this version does not know."""
    match = _DEVICE_TOPIC.match(topic)
    channel = _BY_PLACE.get((match[2], match[3])) if match else None
    return (match[1], channel) if match and channel else None


def all_up(device_id: str = "+") -> str:
    """The filter for everything that this device (default: any) says."""
    return f"{PREFIX}/d/{device_id}/{Direction.UP}/+"


def all_down(device_id: str) -> str:
    """The filter for everything that is said to this device."""
    return f"{PREFIX}/d/{device_id}/{Direction.DOWN}/+"
