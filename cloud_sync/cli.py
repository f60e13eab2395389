"""The command `cloud-sync`, the coordinator; not built yet, so that it only tells its version and says so.

Publishing is already there, as `fleet` (`operator_cli`).
"""

from __future__ import annotations

import sys

import click


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast", prog_name="cloud-sync")
@click.pass_context
def main(context: click.Context) -> None:
    """The coordinator of a fleet: it will state which device should run which snapshot, over MQTT.

    This version does not have it yet. Devices work without it: publish with `fleet`, carry bundles to them,
    and import them with `edge-agent import`.
    """
    if context.invoked_subcommand is None:
        click.echo("cloud-sync: the coordinator is not part of this version.", err=True)
        click.echo("next step: publish with `fleet`, then on the device: edge-agent import FILE.bundle", err=True)
        sys.exit(2)
