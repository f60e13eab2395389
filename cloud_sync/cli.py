"""The command `cloud-sync`: options in, the coordinator made, migrated or run. What it does is in service.py.

Exit codes: 0 done, 1 refused or failed (the message says what to do), 2 wrong usage.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from cloud_sync.folder import DataFolder, init
from edge_agent.contract.errors import HoldfastError, Rejected

Command = Callable[..., None]
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


def _says_what_to_do(command: Command) -> Command:
    """Errors of ours become one line on stderr, what to do, and their exit code."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except ModuleNotFoundError as error:
            if error.name not in ("alembic", "sqlalchemy"):
                raise
            click.echo(f"cloud-sync: {error.name} is not installed", err=True)
            click.echo("next step: install the project with its extra `cloud`: pip install 'holdfast[cloud]'", err=True)
            sys.exit(1)
        except HoldfastError as error:
            click.echo(f"cloud-sync: {error.message}", err=True)
            if error.next_step:
                click.echo(f"next step: {error.next_step}", err=True)
            if options.get("as_json"):
                _print_json(error.document())
            sys.exit(error.exit_code)

    return wrapped


def _print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, sort_keys=True))


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
data_option = click.option(
    "--data", "data", envvar="HOLDFAST_DATA", show_envvar=True, required=True, metavar="DIR",
    type=click.Path(path_type=Path), help="The coordinator's data folder.",
)  # fmt: skip


def _file(name: str, says: str) -> Callable[[Command], Command]:
    variable = "HOLDFAST_" + name.upper().replace("-", "_")
    return click.option(
        f"--{name}", envvar=variable, show_envvar=True, type=click.Path(path_type=Path), metavar="FILE", help=f"{says}"
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast", prog_name="cloud-sync")
def main() -> None:
    """The coordinator of a fleet: states which device should run which snapshot, over MQTT."""


@main.command("init")
@data_option
@click.option(
    "--root", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The publisher's 1.root.json."
)
@json_option
@_says_what_to_do
def init_command(data: Path, root: Path, as_json: bool) -> None:
    """Make the data folder: a key of its own, the operator's token, the publisher's root. Never overwrites."""
    folder = DataFolder(data)
    public_key = init(folder, root)
    if as_json:
        _print_json({"data": str(data), "public_key": public_key, "public_key_file": str(folder.public_key)})
    else:
        click.echo(public_key)
    click.echo(f"next step: on the publisher's machine, fleet coordinator authorize {folder.public_key}", err=True)
    click.echo(f"operators name the token with HOLDFAST_TOKEN_FILE={folder.token}", err=True)


@main.command("migrate")
@data_option
@json_option
@_says_what_to_do
def migrate_command(data: Path, as_json: bool) -> None:
    """Bring the database to the form that this version needs (`serve` does it too)."""
    from cloud_sync.store.database import open_engine, translated
    from cloud_sync.store.migrate import migrate

    folder = DataFolder(data)
    with folder.alone(), translated(str(folder.database)):
        revision = migrate(open_engine(folder.database))
    if as_json:
        _print_json({"database": str(folder.database), "revision": revision})
    else:
        click.echo(revision)


@main.command("serve")
@data_option
@click.option(
    "--broker",
    envvar="HOLDFAST_BROKER",
    show_envvar=True,
    required=True,
    metavar="HOST:PORT",
    help="The MQTT broker.",
)
@click.option(
    "--http", envvar="HOLDFAST_HTTP", show_envvar=True, default="127.0.0.1:8080", show_default=True,
    metavar="HOST:PORT", help="Where operators ask; port 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--username",
    envvar="HOLDFAST_USERNAME",
    show_envvar=True,
    default="coordinator",
    show_default=True,
    help="At the broker.",
)
@_file("password-file", "The password at the broker.")
@_file("ca-file", "Speak TLS with the broker, believing this authority.")
@_file("cert-file", "The coordinator's certificate.")
@_file("key-file", "The key of that certificate.")
@click.option(
    "--log-level", envvar="HOLDFAST_LOG_LEVEL", show_envvar=True, default="info", show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]), help="[env: HOLDFAST_LOG_LEVEL]",
)  # fmt: skip
@click.option(
    "--insecure", is_flag=True, help="Beyond loopback without TLS, on purpose: token and password are readable."
)
@_says_what_to_do
def serve_command(
    data: Path, broker: str, http: str, log_level: str, username: str, insecure: bool, **files: Path | None
) -> None:
    """Run the coordinator in the foreground (a service manager restarts it)."""
    from cloud_sync.logs import set_up_logs
    from cloud_sync.mqtt.settings import BrokerSettings, host_and_port
    from cloud_sync.service import serve

    if files["cert_file"] and not (files["ca_file"] and files["key_file"]):
        raise Rejected("a certificate needs its key and an authority", next_step="Give --key-file and --ca-file too")
    set_up_logs(log_level)
    host, port = host_and_port(broker, "--broker")
    listen = host_and_port(http, "--http")
    if not insecure:
        _refuse_plain(host if files["ca_file"] is None else "", "--broker", "Give --ca-file")
        _refuse_plain(listen[0], "--http", "Listen on loopback, behind a proxy with TLS")
    asyncio.run(serve(DataFolder(data), BrokerSettings(host, port, username, **files), listen))


def _refuse_plain(host: str, option: str, instead: str) -> None:
    if host not in ("", *LOOPBACK_HOSTS):
        raise Rejected(
            f"{option} names {host}, which is not loopback, without TLS",
            next_step=f"{instead}, or say --insecure on purpose",
        )


if __name__ == "__main__":
    main()
