"""`fleet snapshot …`: options and what each prints. Packing, signing and uploading are in `cloud_sync.publish`."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console

from cloud_sync.client.api import Told
from cloud_sync.client.documents import Snapshots
from cloud_sync.operator_cli.options import (
    connect,
    coordinator_options,
    from_unix_ms,
    identity,
    iso,
    json_option,
    keys_if_named,
    keys_option,
    repo_if_named,
    repo_option,
    speaks_of_errors,
)
from cloud_sync.operator_cli.output import ProgressBars, cell, emit, note, plain_table
from cloud_sync.publish.bundle import find, read_bundle_manifest
from cloud_sync.publish.pack import Packed, pack, published_snapshots
from cloud_sync.publish.proving import Interpreters
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import read_published
from cloud_sync.publish.upload import upload
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.reasons import Reason


@click.group()
def snapshot() -> None:
    """Snapshots: immutable, signed model releases."""


engine_python_option = click.option(
    "--engine-python",
    "engine_pythons",
    multiple=True,
    metavar="ENGINE=PATH",
    help="Interpreter that has an engine. [env: HOLDFAST_ENGINE_PYTHON, as in HOLDFAST_PADDLE_PYTHON]",
)


@snapshot.command("pack")
@click.argument("model_folder", type=click.Path(path_type=Path))
@keys_option
@repo_option
@engine_python_option
@json_option
@speaks_of_errors
def snapshot_pack(model_folder: Path, keys: Path, repo: Path, engine_pythons: tuple[str, ...], as_json: bool) -> None:
    """Prove a model folder with its golden vectors, sign it, and add it to the repository."""
    with ProgressBars() as progress:
        packed = _pack(model_folder, keys, repo, engine_pythons, progress)
    emit(_packed_document(packed), as_json=as_json, text=lambda console: _packed_text(console, packed))


@snapshot.command("publish")
@click.argument("model_folder", type=click.Path(path_type=Path), required=False)
@click.option("--all", "only_upload", is_flag=True, help="Pack nothing: upload what the repository has.")
@keys_if_named
@repo_option
@engine_python_option
@coordinator_options()
@json_option
@speaks_of_errors
def snapshot_publish(
    model_folder: Path | None,
    only_upload: bool,
    keys: Path | None,
    repo: Path,
    engine_pythons: tuple[str, ...],
    coordinator_url: str,
    token_file: Path,
    as_json: bool,
) -> None:
    """Pack a model folder, then upload to the coordinator what it does not have yet."""
    if (model_folder is None) is not only_upload:
        raise click.UsageError("name a MODEL_FOLDER, or --all to upload what the repository has")
    if model_folder is not None and keys is None:
        raise click.UsageError("packing needs --keys DIR (or HOLDFAST_KEYS)")
    packed: Packed | None = None
    with connect(coordinator_url, token_file) as coordinator, ProgressBars() as progress:
        if model_folder is not None and keys is not None:
            packed = _pack(model_folder, keys, repo, engine_pythons, progress)
        uploaded = upload(Repository(repo), coordinator, progress=progress)
    if uploaded.expires <= datetime.now(UTC):
        note(f"Devices will refuse this: its metadata expired at {iso(uploaded.expires)}. Run `fleet refresh`.")
    sent_document = {**dataclasses.asdict(uploaded), "expires": iso(uploaded.expires)}
    document = {**(_packed_document(packed) if packed else {}), "uploaded": sent_document}

    def text(console: Console) -> None:
        if packed is not None:
            _packed_text(console, packed)
        sent = f"{uploaded.chunks} of {uploaded.chunks_total} chunks sent, {uploaded.bytes / 2**20:.1f} MiB"
        console.print(f"{coordinator.url} has {uploaded.snapshots} snapshots now; {sent}", markup=False)

    emit(document, as_json=as_json, text=text)


@snapshot.command("show")
@click.argument("what", metavar="NAME@VERSION|FILE.bundle")
@repo_if_named
@coordinator_options(required=False)
@json_option
@click.pass_context
@speaks_of_errors
def snapshot_show(
    context: click.Context, what: str, repo: Path | None, coordinator_url: str | None, token_file: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show a snapshot: of the repository (--repo), else of the coordinator; or what a bundle file says it carries."""
    if "@" not in what or Path(what).exists():
        if not Path(what).is_file():
            raise Rejected(f"there is no file {what}", next_step="Name a bundle file, or NAME@VERSION")
        manifest, digest = read_bundle_manifest(Path(what))
        note("This is what the file says; devices verify its signatures.")
    elif (folder := _repository_asked(context, repo)) is None:
        _show_from_coordinator(what, coordinator_url, token_file, as_json)
        return
    else:
        repository = Repository(folder)
        repository.require()
        found = find(repository, read_published(repository), what)
        manifest, digest = found.manifest, found.digest
    document = {"digest": digest, "manifest": msgspec.to_builtins(manifest)}
    emit(document, as_json=as_json, text=lambda console: _manifest_text(console, manifest, digest))


@snapshot.command("list")
@repo_if_named
@coordinator_options(required=False)
@json_option
@click.pass_context
@speaks_of_errors
def snapshot_list(
    context: click.Context, repo: Path | None, coordinator_url: str | None, token_file: Path | None, as_json: bool
) -> None:
    """List the snapshots of the repository (--repo), else those of the coordinator."""
    folder = _repository_asked(context, repo)
    if folder is None:
        _list_from_coordinator(coordinator_url, token_file, as_json)
        return
    repository = Repository(folder)
    repository.require()
    published = read_published(repository)
    snapshots = published_snapshots(repository, published)

    def text(console: Console) -> None:
        table = plain_table("snapshot", "release", "engines", "MiB", "digest")
        for each in snapshots:
            engines = ", ".join(profile.engine for profile in each.manifest.engines)
            size = f"{each.manifest.total_bytes() / 2**20:.1f}"
            table.add_row(each.manifest.label(), str(each.manifest.release), engines, size, each.digest[:12])
        console.print(table)

    rows = [{**identity(each.manifest, each.digest), "bytes": each.manifest.total_bytes()} for each in snapshots]
    document = {"snapshots": rows, "floors": dict(published.floors), "expires": iso(published.expires)}
    emit(document, as_json=as_json, text=text)


def _repository_asked(context: click.Context, repo: Path | None) -> Path | None:
    """The repository to read, None to ask the coordinator: what stands on the command line wins over the environment.

    Raises UsageError when neither is named.
    """
    typed = {
        name for name in ("repo", "coordinator_url")
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }  # fmt: skip
    if typed == {"coordinator_url"}:
        return None
    if repo is None and context.params["coordinator_url"] is None:
        raise click.UsageError("name the repository (--repo, HOLDFAST_REPO) or the coordinator (--coordinator)")
    return repo


def _coordinator_snapshots(coordinator_url: str | None, token_file: Path | None) -> Told[Snapshots]:
    if coordinator_url is None or token_file is None:
        raise click.UsageError("asking the coordinator needs --token-file FILE (or HOLDFAST_TOKEN_FILE)")
    with connect(coordinator_url, token_file) as coordinator:
        return coordinator.snapshots()


def _list_from_coordinator(coordinator_url: str | None, token_file: Path | None, as_json: bool) -> None:
    told = _coordinator_snapshots(coordinator_url, token_file)

    def text(console: Console) -> None:
        table = plain_table("snapshot", "release", "MiB", "published", "digest")
        for each in told.view.snapshots:
            size, when = f"{each.bytes / 2**20:.1f}", iso(from_unix_ms(each.published_unix_ms))
            label = f"{each.name}@{each.version}"
            table.add_row(cell(label), str(each.release), size, when, cell(each.digest[:12]))
        console.print(table)

    emit(told.document, as_json=as_json, text=text)


def _show_from_coordinator(label: str, coordinator_url: str | None, token_file: Path | None, as_json: bool) -> None:
    told = _coordinator_snapshots(coordinator_url, token_file)
    found = {f"{each.name}@{each.version}": each for each in told.view.snapshots}
    one = found.get(label)
    if one is None:
        close = get_close_matches(label, found, n=3, cutoff=0.4)
        raise Rejected(
            f"the coordinator has no snapshot {label}",
            reason=Reason.UNKNOWN_VERSION,
            next_step=f"Did you mean {' or '.join(close)}?" if close else "See `fleet snapshot list`",
        )

    def text(console: Console) -> None:
        size, when = f"{one.bytes / 2**20:.1f} MiB", iso(from_unix_ms(one.published_unix_ms))
        console.print(cell(f"{label}  release {one.release}  {size}  published {when}"))
        console.print(cell(f"digest {one.digest}"))

    emit(msgspec.to_builtins(one), as_json=as_json, text=text)


def _pack(
    model_folder: Path, keys: Path, repo: Path, engine_pythons: tuple[str, ...], progress: ProgressBars
) -> Packed:
    return pack(
        model_folder,
        keys=keys,
        repository=Repository(repo),
        interpreters=Interpreters(_parse_engine_pythons(engine_pythons), os.environ),
        now=datetime.now(UTC),
        progress=progress,
    )


def _parse_engine_pythons(texts: tuple[str, ...]) -> dict[str, Path]:
    chosen = {}
    for text in texts:
        engine, separator, path = text.partition("=")
        if not (engine and separator and path):
            raise click.BadParameter(f"{text!r} is not ENGINE=PATH", param_hint="--engine-python")
        chosen[engine] = Path(path)
    return chosen


def _packed_document(packed: Packed) -> dict[str, Any]:
    proofs = [
        {
            "engine": proof.profile.engine,
            "vectors": proof.vectors,
            "max_abs_error": proof.max_abs_error,
            "max_rel_error": proof.max_rel_error,
        }
        for proof in packed.proofs
    ]
    return {
        **identity(packed.manifest, packed.digest),
        "unchanged": packed.unchanged,
        "files": len(packed.manifest.files),
        "bytes": packed.manifest.total_bytes(),
        "proofs": proofs,
        "metadata": dict(packed.versions),
    }


def _packed_text(console: Console, packed: Packed) -> None:
    label, size = packed.manifest.label(), packed.manifest.total_bytes() / 2**20
    if packed.unchanged:
        console.print(f"{label} was published before with the same bytes: nothing to do", markup=False)
        return
    for proof in packed.proofs:
        console.print(
            f"{proof.profile.engine}: {proof.vectors} golden vectors reproduced, at most {proof.max_abs_error:.3g} off",
            markup=False,
        )
    console.print(f"{label} published: {size:.1f} MiB, digest {packed.digest[:12]}", markup=False)


def _manifest_text(console: Console, manifest: Manifest, digest: str) -> None:
    console.print(f"{manifest.label()}  release {manifest.release}  interface {manifest.interface}", markup=False)
    console.print(f"digest {digest}", markup=False)
    console.print(f"for {', '.join(manifest.compatible)}", markup=False)
    tensors = plain_table("tensor", "dtype", "shape")
    for side, specs in (("in ", manifest.inputs), ("out", manifest.outputs)):
        for spec in specs:
            tensors.add_row(f"{side} {spec.name}", spec.dtype, "x".join(map(str, spec.shape)))
    engines = plain_table("engine", "format", "rtol", "atol", "resident MiB")
    for profile in manifest.engines:
        tolerance, resident = profile.tolerance, f"{profile.resident_bytes / 2**20:.1f}"
        engines.add_row(profile.engine, profile.format, str(tolerance.rtol), str(tolerance.atol), resident)
    files = plain_table("file", "bytes", "sha256")
    for entry in manifest.files:
        files.add_row(entry.path, str(entry.length), entry.sha256[:12])
    for table in (tensors, engines, files):
        console.print()
        console.print(table)
    console.print(f"\n{manifest.golden.count} golden vectors", markup=False)
