"""Bringing the database to the form that this version needs, with Alembic; the steps are in `migrations`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from edge_agent.contract.errors import Unavailable

STEPS = Path(__file__).with_name("migrations")


def migrate(engine: Engine, *, to: str = "head") -> str:
    """Run what is missing, all in one transaction; gives the step that the database is at now.

    Raises Unavailable when the database was written by a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(STEPS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    known = {step.revision for step in script.walk_revisions()}
    with engine.begin() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        if present is not None and present not in known:
            raise Unavailable(
                f"{engine.url.database} is at step {present}, which this version of cloud-sync does not know: "
                "a newer version has written it",
                next_step="Install that version again, or restore a backup that was made before it ran",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, to)
        return MigrationContext.configure(connection).get_current_revision() or ""
