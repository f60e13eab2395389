"""Reports: numbered facts that a device states, in batches, and their acknowledgement; the outbox is in `store`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import Count, DeviceId, Label, Name, Sha256, Version
from edge_agent.contract.reasons import Reason

Detail = Annotated[str, Meta(max_length=limits.DETAIL_CHARS_MAX)]


class ReportKind(StrEnum):
    """What happened. Lifecycle facts are never dropped before telemetry."""

    ASSIGNED = "assigned"  # the coordinator's wish for a slot was taken
    PHASE = "phase"  # a candidate entered a phase
    SERVING = "serving"  # another snapshot serves now
    QUARANTINED = "quarantined"
    DECLINED = "declined"
    REFUSED = "refused"
    DAMAGE = "damage"  # stored bytes were found damaged
    REPAIRED = "repaired"
    POISON = "poison"  # a request that ended two workers
    OPERATOR = "operator"  # somebody on the device rolled back, pinned or unpinned


class Report(Struct, frozen=True):
    """One fact. Keyed (device_id, incarnation, number); number grows by one within an incarnation."""

    device_id: DeviceId
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


class ReportBatch(Struct, frozen=True):
    """The oldest reports that the coordinator has not committed yet, in the order of their numbers.

    after: what the coordinator said that it has committed (0: nothing). A number that is missing between `after` and
    the last report was dropped on the device, when its outbox was full: it never comes, and nobody waits for it.
    """

    device_id: DeviceId
    incarnation: Label
    after: Count
    reports: Annotated[tuple[Report, ...], Meta(max_length=limits.REPORTS_PER_BATCH_MAX)]
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


class ReportAck(Struct, frozen=True):
    """Signed by the coordinator: reports of this incarnation up to this number are committed in its database.

    The number may be lower than before: a coordinator restored from a backup has fewer, and gets them again.
    """

    device_id: DeviceId
    incarnation: Label
    committed: Count
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


def parse_report(raw: bytes) -> Report:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, Report, bytes_max=limits.REPORT_BYTES_MAX)


def parse_report_batch(raw: bytes) -> ReportBatch:
    """Raises Rejected: too_large or malformed (also: numbers that do not grow, reports of somebody else, or one report
    with a field that has to be understood and is not).
    """
    batch = canonical.decode(raw, ReportBatch, bytes_max=limits.REPORT_BATCH_BYTES_MAX)
    before = batch.after
    for report in batch.reports:
        canonical.refuse_unknown(report.must_understand, Report)
        if report.number <= before:
            raise Rejected(f"report {report.number} follows number {before}", reason=Reason.MALFORMED)
        if (report.device_id, report.incarnation) != (batch.device_id, batch.incarnation):
            raise Rejected("a report in the batch is not the sender's own", reason=Reason.MALFORMED)
        before = report.number
    return batch


def parse_report_ack(raw: bytes) -> ReportAck:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, ReportAck, bytes_max=limits.REPORT_ACK_BYTES_MAX)
