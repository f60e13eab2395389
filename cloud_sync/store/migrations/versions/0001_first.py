"""The first form of the database. Never edit a step that was released: add one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    _devices()
    _reports()
    _wishes()
    _repository()


def _devices() -> None:
    op.create_table("meta", sa.Column("key", sa.String(), primary_key=True), _text("value"))
    op.create_table(
        "devices",
        sa.Column("device_id", sa.String(), primary_key=True),
        *map(_text, ("device_type", "agent_version")),
        sa.Column("models", sa.JSON(), nullable=False),
        _text("connection_id"),
        sa.Column("connected", sa.Boolean(), nullable=False),
        *map(_number, ("last_heard_unix_ms", "told_epoch", "told_revision")),
        sa.Column("resumes", sa.Integer(), nullable=False),
        sa.Column("report_resumes", sa.Integer(), nullable=False),
        _number("lost_reports"),
        sa.Column("state", sa.LargeBinary()),
    )
    op.create_table(
        "assignments",
        _device(primary_key=True),
        *map(_number, ("epoch", "revision")),
        sa.Column("models", sa.JSON(), nullable=False),
    )
    op.create_table(
        "entitlements", _row(), _device(nullable=False), _text("digest"), sa.UniqueConstraint("device_id", "digest")
    )


def _reports() -> None:
    op.create_table(
        "incarnations",
        _row(),
        _device(nullable=False),
        _text("incarnation"),
        _number("committed"),
        sa.UniqueConstraint("device_id", "incarnation"),
    )
    op.create_table(
        "reports",
        _row(),
        _device(nullable=False),
        _text("incarnation"),
        *map(_number, ("number", "received_unix_ms")),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("device_id", "incarnation", "number"),
    )
    op.create_index("reports_of_device", "reports", ["device_id", "id"])


def _wishes() -> None:
    op.create_table(
        "rollouts",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("rollout_id", sa.String(), nullable=False, unique=True),
        *map(_text, ("model", "version", "digest")),
        *map(_number, ("generation", "created_unix_ms")),
        *map(_text, ("strategy", "kind")),
        sa.Column("devices", sa.JSON()),
        sa.Column("refused_before", sa.JSON(), nullable=False),
        sa.Column("halted_device", sa.String()),
        sa.Column("halted_reason", sa.String()),
    )
    op.create_table("generations", sa.Column("model", sa.String(), primary_key=True), _number("generation"))


def _repository() -> None:
    op.create_table(
        "snapshots",
        sa.Column("digest", sa.String(), primary_key=True),
        *map(_text, ("name", "version")),
        _number("published_unix_ms"),
        sa.UniqueConstraint("name", "version"),
    )
    op.create_table(
        "served_parts",
        _row(),
        *map(_text, ("device_id", "name")),
        _number("offset"),
        sa.Column("length", sa.Integer(), nullable=False),
        _number("at_unix_ms"),
    )


def _row() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), primary_key=True)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _device(**options: bool) -> sa.Column[str]:
    key = sa.ForeignKey("devices.device_id", ondelete="CASCADE")
    return sa.Column("device_id", sa.String(), key, **options)  # type: ignore[arg-type]
