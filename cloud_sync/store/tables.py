"""The tables, as SQLAlchemy Core sees them; how they came to be is in `migrations`, statements are beside this file."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()


def _device(**options: bool) -> Column[str]:
    return Column("device_id", String, ForeignKey("devices.device_id", ondelete="CASCADE"), **options)  # type: ignore[arg-type]


# What the coordinator remembers of itself: planning_stopped (the reason), resumes (how often an operator went on).
meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))

# state: the raw DeviceState. told_*: of the last assignment that the device said to have taken.
# resumes, report_resumes: the count of meta at which its numbers, and its count of reports, last agreed with ours.
devices = Table(
    "devices",
    metadata,
    Column("device_id", String, primary_key=True),
    Column("device_type", String, nullable=False),
    Column("agent_version", String, nullable=False),
    Column("models", JSON, nullable=False),
    Column("connection_id", String, nullable=False),
    Column("connected", Boolean, nullable=False),
    Column("last_heard_unix_ms", BigInteger, nullable=False),
    Column("told_epoch", BigInteger, nullable=False),
    Column("told_revision", BigInteger, nullable=False),
    Column("resumes", Integer, nullable=False),
    Column("report_resumes", Integer, nullable=False),
    Column("lost_reports", BigInteger, nullable=False),
    Column("state", LargeBinary),
)

# models: {name: [digest, version, generation]}; signed anew from this row whenever it is published.
assignments = Table(
    "assignments",
    metadata,
    _device(primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("models", JSON, nullable=False),
)

# Snapshots that a device may fetch: whatever was ever assigned to it.
entitlements = Table(
    "entitlements",
    metadata,
    Column("id", Integer, primary_key=True),
    _device(nullable=False),
    Column("digest", String, nullable=False),
    UniqueConstraint("device_id", "digest"),
)

# committed: the number up to which everything is in `reports`, was, or never comes.
incarnations = Table(
    "incarnations",
    metadata,
    Column("id", Integer, primary_key=True),
    _device(nullable=False),
    Column("incarnation", String, nullable=False),
    Column("committed", BigInteger, nullable=False),
    UniqueConstraint("device_id", "incarnation"),
)

reports = Table(
    "reports",
    metadata,
    Column("id", Integer, primary_key=True),
    _device(nullable=False),
    Column("incarnation", String, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
    UniqueConstraint("device_id", "incarnation", "number"),
    Index("reports_of_device", "device_id", "id"),
)

# devices: a list of ids, or null for all that run the model. refused_before: [[device, reason]]. policy: what is stated
# of a contract Policy; null in rollouts that are older than policies.
rollouts = Table(
    "rollouts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("rollout_id", String, nullable=False, unique=True),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("strategy", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("devices", JSON),
    Column("refused_before", JSON, nullable=False),
    Column("policy", JSON),
    Column("halted_device", String),
    Column("halted_reason", String),
)

# The highest generation that was ever given or told, so that it never falls.
generations = Table(
    "generations",
    metadata,
    Column("model", String, primary_key=True),
    Column("generation", BigInteger, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("digest", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("published_unix_ms", BigInteger, nullable=False),
    UniqueConstraint("name", "version"),
)

served_parts = Table(
    "served_parts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("at_unix_ms", BigInteger, nullable=False),
)
