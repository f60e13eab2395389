"""Reports (numbered facts that a device states) and presence, as frozen validated types; the outbox is in `store`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.manifest import Count, Label, Name, Sha256, Version

Detail = Annotated[str, Meta(max_length=limits.DETAIL_CHARS_MAX)]


class ReportKind(StrEnum):
    """What happened. Lifecycle facts are never dropped before telemetry."""

    PHASE = "phase"  # a candidate entered a phase
    SERVING = "serving"  # another snapshot serves now
    QUARANTINED = "quarantined"
    DECLINED = "declined"
    REFUSED = "refused"
    DAMAGE = "damage"  # stored bytes were found damaged
    REPAIRED = "repaired"
    POISON = "poison"  # a request that ended two workers


class Report(Struct, frozen=True):
    """One fact. Keyed (device_id, incarnation, number); number grows by one within an incarnation."""

    device_id: Label
    incarnation: Label
    number: Count
    at_unix_ms: Count
    kind: ReportKind
    model: Name | None = None
    digest: Sha256 | None = None
    version: Version | None = None
    phase: Label | None = None
    reason: Label | None = None
    detail: Detail = ""
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


class Presence(Struct, frozen=True):
    """Said on connecting and by the broker's last will; `connection_id` tells a new connection from an old will."""

    device_id: Label
    connection_id: Label
    online: bool
    agent_version: Label
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


def parse_report(raw: bytes) -> Report:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, Report, bytes_max=limits.REPORT_BYTES_MAX)


def parse_presence(raw: bytes) -> Presence:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, Presence, bytes_max=limits.PRESENCE_BYTES_MAX)
