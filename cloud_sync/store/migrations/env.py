"""Alembic's entry: runs the steps on the connection that `store.migrate` hands over. It opens nothing itself."""

from __future__ import annotations

from alembic import context

from cloud_sync.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
context.run_migrations()
