"""What commands of `fleet` have in common: options, how errors are told, how snapshots and dates are written.

What each command does is in the file of its room (snapshots.py, main.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from cloud_sync.client.api import Coordinator
from cloud_sync.operator_cli.output import fail, note
from edge_agent.contract.errors import HoldfastError
from edge_agent.contract.manifest import Manifest

F = TypeVar("F", bound=Callable[..., Any])


def _folder(name: str, envvar: str, *, required: bool, what: str) -> Callable[[F], F]:
    return click.option(
        name,
        envvar=envvar,
        show_envvar=True,
        required=required,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help=what,
    )


_KEYS = "Folder with the publisher's keys."
_REPO = "Folder of the publisher's repository."
keys_option = _folder("--keys", "HOLDFAST_KEYS", required=True, what=_KEYS)
keys_if_named = _folder("--keys", "HOLDFAST_KEYS", required=False, what=_KEYS)
repo_option = _folder("--repo", "HOLDFAST_REPO", required=True, what=_REPO)
repo_if_named = _folder("--repo", "HOLDFAST_REPO", required=False, what=_REPO)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")

_COORDINATOR_HELP = "Address of the coordinator."
_TOKEN_HELP = "File with the operator's token."


def coordinator_options(*, required: bool = True) -> Callable[[F], F]:
    """Which coordinator is asked, and with which token: arguments coordinator_url and token_file."""
    where = click.option(
        "--coordinator", "coordinator_url", envvar="HOLDFAST_COORDINATOR", show_envvar=True,
        required=required, metavar="URL", help=_COORDINATOR_HELP,
    )  # fmt: skip
    token = click.option(
        "--token-file", envvar="HOLDFAST_TOKEN_FILE", show_envvar=True,
        required=required, metavar="FILE", help=_TOKEN_HELP, type=click.Path(path_type=Path),
    )  # fmt: skip
    return lambda command: where(token(command))


def connect(coordinator_url: str, token_file: Path) -> Coordinator:
    """The coordinator's API, to be used with `with`. Raises Rejected for a wrong address or a missing token."""
    coordinator = Coordinator(coordinator_url, token_file)
    if coordinator.is_plain:
        note(f"The token travels unencrypted to {coordinator.url}: put a proxy with TLS before the coordinator.")
    return coordinator


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


def from_unix_ms(at_unix_ms: int) -> datetime | None:
    """A moment of a document; None for 0 and for what is no date."""
    try:
        return datetime.fromtimestamp(at_unix_ms / 1000, UTC) if at_unix_ms else None
    except (OverflowError, ValueError, OSError):
        return None
