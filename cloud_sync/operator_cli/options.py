"""What commands of `fleet` have in common: options, how errors are told, how snapshots and dates are written.

What each command does is in the file of its room (snapshots.py, main.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from cloud_sync.operator_cli.output import fail
from edge_agent.contract.errors import HoldfastError
from edge_agent.contract.manifest import Manifest

F = TypeVar("F", bound=Callable[..., Any])

keys_option = click.option(
    "--keys",
    envvar="HOLDFAST_KEYS",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with the publisher's keys. [env: HOLDFAST_KEYS]",
)
repo_option = click.option(
    "--repo",
    envvar="HOLDFAST_REPO",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the publisher's repository. [env: HOLDFAST_REPO]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def speaks_of_errors(command: F) -> F:
    """Turn the errors that we raise on purpose into messages and exit codes, in one place."""

    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, **options: Any) -> None:
        try:
            command(*args, as_json=as_json, **options)
        except HoldfastError as error:
            fail(error, as_json=as_json)

    return wrapped  # type: ignore[return-value]  # wraps() keeps the signature that click reads


def identity(manifest: Manifest, digest: str) -> dict[str, Any]:
    """A snapshot in a document: name, version, release, digest."""
    return {"name": manifest.name, "version": manifest.version, "release": manifest.release, "digest": digest}


def iso(when: datetime | None) -> str | None:
    """A date in a document, in UTC; None stays None."""
    return None if when is None else f"{when:%Y-%m-%dT%H:%M:%SZ}"
