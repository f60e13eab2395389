"""Rollouts carry a policy. Never edit a step that was released: add one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Older rollouts have none."""
    op.add_column("rollouts", sa.Column("policy", sa.JSON()))
