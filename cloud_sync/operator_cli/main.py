"""The command `fleet`: its groups, and the commands for keys, bundles and the coordinator's key.

The others have files of their own (snapshots.py, devices.py, rollouts.py); what commands do is in
`cloud_sync.publish`, and at the coordinator.

Exit codes: 0 done, 1 refused or failed (the message says what to do), 2 wrong usage.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console

from cloud_sync.operator_cli.devices import devices
from cloud_sync.operator_cli.options import identity, iso, json_option, keys_option, repo_option, speaks_of_errors
from cloud_sync.operator_cli.output import ProgressBars, emit, note
from cloud_sync.operator_cli.policies import policy_option, read_policy
from cloud_sync.operator_cli.rollouts import resume, rollback, rollout
from cloud_sync.operator_cli.snapshots import snapshot
from cloud_sync.publish.bundle import write_bundle
from cloud_sync.publish.coordinator import authorize, read_public_key
from cloud_sync.publish.keys import create_keys
from cloud_sync.publish.pack import refresh
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import read_published


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast", prog_name="fleet")
def main() -> None:
    """Publish model snapshots for a fleet of devices, and say which device should run which."""


for command in (snapshot, devices, rollout, rollback, resume):
    main.add_command(command)


@main.group()
def keys() -> None:
    """The publisher's keys."""


@keys.command("init")
@keys_option
@json_option
@speaks_of_errors
def keys_init(keys: Path, as_json: bool) -> None:
    """Make one key per role and the root file that devices pin."""
    root = create_keys(keys, now=datetime.now(UTC))

    def text(console: Console) -> None:
        console.print(f"Keys are in {keys}. Devices pin this file: {root}", markup=False)
        console.print("Keep root.pem and targets.pem away from networks; lose them and no device updates any more.")

    emit({"keys": str(keys), "root": str(root)}, as_json=as_json, text=text)


@main.command()
@click.argument("label", metavar="NAME@VERSION")
@repo_option
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@json_option
@speaks_of_errors
def bundle(label: str, repo: Path, out: Path, as_json: bool) -> None:
    """Write a snapshot, its chunks and its signed metadata into one file."""
    with ProgressBars() as progress:
        bundled = write_bundle(Repository(repo), label, out, progress=progress)
    if bundled.expires <= datetime.now(UTC):
        note(f"Devices will refuse this: its metadata expired at {iso(bundled.expires)}. Run `fleet refresh`.")
    document = {
        **identity(bundled.manifest, bundled.digest),
        "file": str(out),
        "bytes": bundled.bytes,
        "expires": iso(bundled.expires),
    }
    size = f"{bundled.bytes / 2**20:.1f} MiB"
    line = f"{out}: {bundled.manifest.label()}, {size}, good until {iso(bundled.expires)}"
    emit(document, as_json=as_json, text=lambda console: console.print(line, markup=False))


@main.command("refresh")
@keys_option
@repo_option
@json_option
@speaks_of_errors
def refresh_command(keys: Path, repo: Path, as_json: bool) -> None:
    """Sign the repository's content again with new dates, before the present ones pass."""
    versions = refresh(keys=keys, repository=Repository(repo), now=datetime.now(UTC))
    expires = read_published(Repository(repo)).expires
    document = {"metadata": dict(versions), "expires": iso(expires)}
    line = (
        f"Signed again; good until {iso(expires)}. It travels with `fleet snapshot publish --all`, or in new bundles."
    )
    emit(document, as_json=as_json, text=lambda console: console.print(line, markup=False))


@main.command("minimum")
@click.argument("model")
@policy_option("What every update of MODEL has to show at least, for example probation_s=3600. None: nothing.")
@click.option("--release", type=click.IntRange(0), help="The lowest release that may be taken in; it never falls.")
@keys_option
@repo_option
@json_option
@speaks_of_errors
def minimum_command(
    model: str, policy_words: tuple[str, ...], release: int | None, keys: Path, repo: Path, as_json: bool
) -> None:
    """State the minimum policy, and the floor, of MODEL: no coordinator and no device goes below them."""
    policy = read_policy(policy_words)
    floors = {} if release is None else {model: release}
    versions = refresh(
        keys=keys, repository=Repository(repo), now=datetime.now(UTC), floors=floors, minimums={model: policy}
    )
    published = read_published(Repository(repo))
    stated = {"policy": msgspec.to_builtins(policy), "release": published.floors.get(model, 0)}
    document = {"model": model, **stated, "metadata": dict(versions), "expires": iso(published.expires)}
    line = f"Stated for {model}. It travels with `fleet snapshot publish --all`, or in new bundles."
    emit(document, as_json=as_json, text=lambda console: console.print(line, markup=False))


@main.group()
def coordinator() -> None:
    """The coordinator that devices may believe."""


@coordinator.command("authorize")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@keys_option
@repo_option
@json_option
@speaks_of_errors
def coordinator_authorize(file: Path, keys: Path, repo: Path, as_json: bool) -> None:
    """Name the coordinator whose public key is in FILE (coordinator.pub). Another one's assignments are void then."""
    authorized = authorize(read_public_key(file), keys=keys, repository=Repository(repo), now=datetime.now(UTC))
    key = authorized.key
    document = {
        "epoch": key.epoch,
        "public_key": key.public_key,
        "unchanged": authorized.unchanged,
        "metadata": dict(authorized.versions),
    }
    verb = "was named before, in" if authorized.unchanged else "is named now, in"
    line = f"The coordinator with key {key.public_key[:12]}… {verb} epoch {key.epoch}"
    emit(document, as_json=as_json, text=lambda console: console.print(line, markup=False))
