"""Fetching in parts: what a device asks for and how it is answered; who may have what is the coordinator's to say.

The answer is the raw bytes as payload, with the words below as user properties, and the request's correlation data.
"""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import Count, Label
from edge_agent.contract.reasons import Reason


class Kind(StrEnum):
    """What may be asked for, and by what name."""

    METADATA = "metadata"  # a signed TUF file: timestamp.json, N.root.json, N.snapshot.json, N.targets.json
    COORDINATOR = "coordinator"  # coordinator.json
    MANIFEST = "manifest"  # by its digest
    CHUNK = "chunk"  # by its SHA-256


class Get(Struct, frozen=True):
    """A part of one thing: `length` bytes from `offset` on, fewer where it ends."""

    kind: Kind
    name: Label
    offset: Count
    length: Annotated[int, Meta(ge=1, le=limits.PART_BYTES_MAX)]
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


class Status(IntEnum):
    """How an answer says that it went, in HTTP's numbers."""

    OK = 200
    MALFORMED = 400
    NOT_ASSIGNED = 403  # to this device
    NOT_THERE = 404
    BEYOND = 416  # the thing ends before this part
    TRY_LATER = 503


# User properties of an answer.
STATUS = "status"  # one of the above, in decimal digits
TOTAL_BYTES = "total"  # of the whole thing, with status 200

_NAMES = {
    Kind.METADATA: re.compile(r"(timestamp|[1-9][0-9]{0,15}\.(root|snapshot|targets))\.json\Z"),
    Kind.COORDINATOR: re.compile(r"coordinator\.json\Z"),
    Kind.MANIFEST: re.compile(r"[0-9a-f]{64}\Z"),
    Kind.CHUNK: re.compile(r"[0-9a-f]{64}\Z"),
}


# The same words as headers of an answer over HTTP: one without the first is not the coordinator's.
STATUS_HEADER = "Holdfast-Status"
TOTAL_BYTES_HEADER = "Holdfast-Total"


def parts_path(device_id: str, kind: str, name: str) -> str:
    """Where parts of one thing are over HTTP, below the coordinator's address; offset and length are the query."""
    return f"/device/v1/{device_id}/parts/{kind}/{name}"


def may_be_named(kind: Kind, name: str) -> bool:
    """Whether such a thing can have this name."""
    return _NAMES[kind].match(name) is not None


def parse_get(raw: bytes) -> Get:
    """Raises Rejected: too_large or malformed (also: a name that such a thing cannot have)."""
    get = canonical.decode(raw, Get, bytes_max=limits.GET_BYTES_MAX)
    if not may_be_named(get.kind, get.name):
        raise Rejected(f"there is no {get.kind} with the name {get.name!r}", reason=Reason.MALFORMED)
    return get
