"""`fleet snapshot …`: what each prints. Packing, signing and uploading are in `cloud_sync.publish`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from cloud_sync.operator_cli.options import identity, iso, json_option, keys_option, repo_option, speaks_of_errors
from cloud_sync.operator_cli.output import ProgressBars, emit, note, plain_table
from cloud_sync.publish.bundle import find, read_bundle_manifest
from cloud_sync.publish.pack import Packed, pack, published_snapshots
from cloud_sync.publish.proving import Interpreters
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import read_published
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import Manifest


@click.group()
def snapshot() -> None:
    """Snapshots: immutable, signed model releases."""


@snapshot.command("pack")
@click.argument("model_folder", type=click.Path(path_type=Path))
@keys_option
@repo_option
@click.option(
    "--engine-python",
    "engine_pythons",
    multiple=True,
    metavar="ENGINE=PATH",
    help="Interpreter that has an engine. [env: HOLDFAST_ENGINE_PYTHON, as in HOLDFAST_PADDLE_PYTHON]",
)
@json_option
@speaks_of_errors
def snapshot_pack(model_folder: Path, keys: Path, repo: Path, engine_pythons: tuple[str, ...], as_json: bool) -> None:
    """Prove a model folder with its golden vectors, sign it, and add it to the repository."""
    interpreters = Interpreters(_parse_engine_pythons(engine_pythons), os.environ)
    with ProgressBars() as progress:
        packed = pack(
            model_folder,
            keys=keys,
            repository=Repository(repo),
            interpreters=interpreters,
            now=datetime.now(UTC),
            progress=progress,
        )
    emit(_packed_document(packed), as_json=as_json, text=lambda console: _packed_text(console, packed))


@snapshot.command("show")
@click.argument("what", metavar="NAME@VERSION|FILE.bundle")
@click.option("--repo", envvar="HOLDFAST_REPO", type=click.Path(path_type=Path), metavar="DIR", help="Repository.")
@json_option
@speaks_of_errors
def snapshot_show(what: str, repo: Path | None, as_json: bool) -> None:
    """Show a snapshot of the repository, or what a bundle file says it carries."""
    if "@" in what and not Path(what).exists():
        if repo is None:
            raise click.UsageError("NAME@VERSION needs --repo DIR (or HOLDFAST_REPO)")
        repository = Repository(repo)
        repository.require()
        found = find(repository, read_published(repository), what)
        manifest, digest = found.manifest, found.digest
    else:
        if not Path(what).is_file():
            raise Rejected(f"there is no file {what}", next_step="Name a bundle file, or NAME@VERSION with --repo")
        manifest, digest = read_bundle_manifest(Path(what))
        note("This is what the file says; devices verify its signatures.")
    document = {"digest": digest, "manifest": msgspec.to_builtins(manifest)}
    emit(document, as_json=as_json, text=lambda console: _manifest_text(console, manifest, digest))


@snapshot.command("list")
@repo_option
@json_option
@speaks_of_errors
def snapshot_list(repo: Path, as_json: bool) -> None:
    """List the snapshots of the repository."""
    repository = Repository(repo)
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
