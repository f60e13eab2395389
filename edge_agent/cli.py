"""`edge-agent`: the operator's commands on the device. What they do is asked of the running agent; nothing is decided
here.

stdout carries results (one JSON document with --json), stderr everything else. Exit 0 done, 1 refused or failed, 2
usage.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_agent import AGENT_VERSION
from edge_agent.client import AdminClient, connect_within, import_bundle, wait_until_settled
from edge_agent.config import Config, load_config
from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import reason_from_word
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.store.opening import journal_on_disk

Command = Callable[..., None]


def _says_what_to_do(command: Command) -> Command:
    """Errors of ours become one line on stderr, what to do, and their exit code."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except HoldfastError as error:
            click.echo(f"edge-agent: {error.message}", err=True)
            if error.next_step:
                click.echo(f"  -> {error.next_step}", err=True)
            if options.get("as_json"):
                _print_json(error.document())
            sys.exit(error.exit_code)

    return wrapped


config_option = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), default=Path("agent.toml"), envvar="HOLDFAST_CONFIG",
    show_default=True, help="The agent's settings.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(AGENT_VERSION)
def main() -> None:
    """Serve models that were proven on this device, whatever happens to network, disk or releases."""


@main.command()
@config_option
@_says_what_to_do
def run(config_path: Path) -> None:
    """Run the agent in the foreground (a service manager restarts it)."""
    from edge_agent.runtime.claim import claim

    config = load_config(config_path)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # until the runtime has its own
    claimed = claim(config)  # before the rest is imported: the engine's import is what a start waits for
    try:
        from edge_agent.logs import set_up_logs
        from edge_agent.runtime.app import Runtime

        set_up_logs(config.log_level, process="runtime", device_id=config.device_id)
        asyncio.run(Runtime(config, claimed).run())
    finally:
        claimed.end()


@main.command("import")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--retry", is_flag=True, help="Try a snapshot again that is quarantined here.")
@click.option(
    "--wait-s", type=click.FloatRange(min=0), default=120.0, show_default=True, help="How long to follow the snapshot."
)
@click.option(
    "--until", type=click.Choice(["trial", "serving", "confirmed"]), default="trial", show_default=True,
    help="How far to follow it; a trial and a probation go on by themselves.",
)  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Return as soon as every chunk is stored.")
@config_option
@json_option
@_says_what_to_do
def import_command(
    bundle_path: Path, retry: bool, wait_s: float, until: str, no_wait: bool, config_path: Path, as_json: bool
) -> None:
    """Offer a snapshot from a BUNDLE file: verified, proven here, tried, then served. Also repairs damaged chunks."""
    config = load_config(config_path)
    with BundleReader(bundle_path) as bundle:
        model, version = _claimed_label(bundle.manifest_raw)
        begun = import_bundle(
            config, bundle, model=model, version=version, retry=retry, wait_s=wait_s, progress=_show_progress
        )
    if no_wait:
        _print_result(as_json, {"ok": True, **begun}, f"{begun['model']}@{begun['version']}: all chunks are stored")
        return
    document = wait_until_settled(config, begun["model"], begun["digest"], wait_s, until)
    _tell_outcome(as_json, begun, document)


def _tell_outcome(as_json: bool, begun: dict[str, Any], document: dict[str, Any]) -> None:
    label, digest = f"{begun['model']}@{begun['version']}", begun["digest"]
    for record in document["quarantined"]:
        if record["digest"] == digest and record["blocked"]:
            raise Rejected(
                f"{label} is quarantined: {record['reason']}: {record['detail']}",
                reason=reason_from_word(record["reason"]),
            )
    declined = document["declined"]
    active = document["active"]
    serves = active is not None and active["digest"] == digest
    candidate = document["candidate"]
    tried = candidate is not None and candidate["digest"] == digest
    if serves:
        state = "serves, in probation" if tried else "serves"
    elif tried and candidate["phase"] == "trial":
        state = f"is tried beside {active['version']}, and takes its place by itself if it does well" if active else ""
    else:
        if declined and declined["digest"] == digest:
            reason = reason_from_word(declined["reason"])
            raise Unavailable(f"{label} was declined: {reason}: {declined['detail']}", reason=reason)
        known = {snapshot["digest"]: snapshot for snapshot in document["snapshots"]}
        if digest not in known or known[digest]["damaged"]:
            raise Rejected(f"{label} was not taken in", next_step="See `edge-agent history`")
        state = "is stored whole; another snapshot serves"
    _print_result(as_json, {"ok": True, "serving": serves, "model": document, "digest": digest}, f"{label} {state}")


@main.command()
@click.option("--wait", "wait_s", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS",
              help="Wait so long for an agent that is just starting.")  # fmt: skip
@config_option
@json_option
@_says_what_to_do
def status(wait_s: float, config_path: Path, as_json: bool) -> None:
    """What serves, what is being brought in, what failed and why."""
    with connect_within(load_config(config_path), wait_s) as client:
        document = client.ask("status")[0]["status"]
    if as_json:
        _print_json(document)
        return
    from edge_agent.cli_text import print_status

    print_status(document)


@main.command()
@click.argument("model", required=False)
@click.option(
    "--newest", type=click.IntRange(1, limits.HISTORY_LINES_MAX), default=50, show_default=True, help="How many lines."
)
@config_option
@json_option
@_says_what_to_do
def history(model: str | None, newest: int, config_path: Path, as_json: bool) -> None:
    """The journal: what happened here, and why. Read from the disk when no agent runs."""
    lines = _journal(load_config(config_path), model, newest)
    if as_json:
        _print_json({"lines": lines})
        return
    from edge_agent.cli_text import print_history

    print_history(lines)


def _journal(config: Config, model: str | None, newest: int) -> list[dict[str, Any]]:
    """Raises Rejected for a model that does not run here, Unavailable when nobody runs and no journal can be read."""
    try:
        with AdminClient(config) as client:
            return list(client.ask("history", model=model, newest=newest)[0]["lines"])
    except Unavailable:
        found = journal_on_disk(Path(config.state_dir), model, newest)
        if found is None:
            raise
    click.echo("edge-agent: no agent runs, this is what it wrote last", err=True)
    return [line.document() for line in found]


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="The archive to write; default: in this folder.")
@click.option(
    "--log", "log_file", type=click.Path(path_type=Path), help="The agent's log, if it is not found by itself."
)
@config_option
@json_option
@_says_what_to_do
def diagnose(out: Path | None, log_file: Path | None, config_path: Path, as_json: bool) -> None:
    """One file with what a support engineer needs, and no secret; also of an agent that is down or hangs."""
    from edge_agent.diagnosis import write_diagnosis

    made = write_diagnosis(load_config(config_path), out, log_file)
    missing = [name for name, fault in made.faults.items() if fault]
    told = f"{made.path} ({made.size_bytes} bytes)" + (f"; not found out: {', '.join(missing)}" if missing else "")
    _print_result(as_json, {"ok": True, "file": str(made.path), "bytes": made.size_bytes, "missing": missing}, told)


@main.command()
@click.argument("model")
@click.option("--to", "version", help="The version to go back to; default: the last good one.")
@config_option
@json_option
@_says_what_to_do
def rollback(model: str, version: str | None, config_path: Path, as_json: bool) -> None:
    """Put an older snapshot of MODEL back, now and without any network."""
    answer = _choice(config_path, "rollback", model, version)
    _tell_choice(as_json, answer, f"{model}@{answer['model']['active']['version']} serves")


@main.command()
@click.argument("model")
@click.option("--to", "version", help="The version to pin; default: what serves now.")
@config_option
@json_option
@_says_what_to_do
def pin(model: str, version: str | None, config_path: Path, as_json: bool) -> None:
    """Keep MODEL at one version, and take nothing new until `unpin` or a newer rollout of that model."""
    answer = _choice(config_path, "pin", model, version)
    _tell_choice(as_json, answer, f"{model}@{answer['model']['active']['version']} serves, pinned")


@main.command()
@click.argument("model")
@config_option
@json_option
@_says_what_to_do
def unpin(model: str, config_path: Path, as_json: bool) -> None:
    """Take a pin of MODEL back, and any other choice made on this device: what is assigned counts again."""
    answer = _choice(config_path, "unpin", model, None)
    assigned = answer["model"]["assigned"]
    what = f"{assigned['version']} is assigned" if assigned else "nothing is assigned, what serves goes on"
    _tell_choice(as_json, answer, f"{model} is not pinned; {what}")


def _choice(config_path: Path, verb: str, model: str, version: str | None) -> dict[str, Any]:
    with AdminClient(load_config(config_path)) as client:
        return client.ask(verb, model=model, version=version)[0]


def _tell_choice(as_json: bool, answer: dict[str, Any], text: str) -> None:
    """What the operator chose; where the disk cannot be written, that a restart forgets it."""
    _print_result(as_json, {"ok": True, "saved": answer["saved"], "model": answer["model"]}, text)
    if not answer["saved"]:
        click.echo(f"edge-agent: it serves, but could not be saved ({answer['storage']})", err=True)
        click.echo("  -> Say it again after a restart, or make the state folder writable before", err=True)


@main.command()
@config_option
@json_option
@_says_what_to_do
def verify(config_path: Path, as_json: bool) -> None:
    """Hash every stored byte of every snapshot again. Exit 1 when something is damaged."""
    with AdminClient(load_config(config_path)) as client:
        damaged = client.ask("verify")[0]["damaged_chunks"]
    total = sum(damaged.values())
    _print_result(
        as_json, {"ok": total == 0, "damaged_chunks": damaged}, f"{total} damaged chunks in {len(damaged)} snapshots"
    )
    if total:
        click.echo("  -> Import the bundle of the damaged snapshot again: only its damaged chunks are taken.", err=True)
        click.echo("     A damaged factory snapshot is made again with edge-agent factory", err=True)
        sys.exit(1)


@main.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The factory file to write.")
@click.option("--renew", is_flag=True, help="Put it in the place of the one that is there.")
@config_option
@json_option
@_says_what_to_do
def factory(bundle_path: Path, out: Path, renew: bool, config_path: Path, as_json: bool) -> None:
    """Make the read-only factory snapshot from a BUNDLE: the last rung of the ladder."""
    from edge_agent.factory_command import make_factory

    label = make_factory(load_config(config_path), bundle_path, out, renew=renew)
    _print_result(as_json, {"ok": True, "factory": str(out), "snapshot": label}, f"{out} holds {label}")


@main.command()
@config_option
@json_option
@_says_what_to_do
def doctor(config_path: Path, as_json: bool) -> None:
    """Check settings, folders, engines and the factory snapshot without a running agent."""
    from edge_agent.doctor import examine

    checks = examine(load_config(config_path))
    for check in checks:
        click.echo(f"{'ok ' if check.passed else 'BAD'}  {check.name}: {check.detail}", err=as_json)
        if not check.passed:
            click.echo(f"     -> {check.next_step}", err=True)
    passed = all(check.passed for check in checks)
    if as_json:
        _print_json({"ok": passed, "checks": [msgspec.to_builtins(check) for check in checks]})
    sys.exit(0 if passed else 1)


def _claimed_label(manifest_raw: bytes) -> tuple[str, str]:
    """Name and version as the unverified manifest states them; empty when it cannot be read."""
    try:
        document = msgspec.json.decode(manifest_raw)
    except (msgspec.DecodeError, RecursionError):
        return "", ""
    if not isinstance(document, dict):
        return "", ""
    return str(document.get("name", "")), str(document.get("version", ""))


def _show_progress(done: int, total: int) -> None:
    if total and sys.stderr.isatty():
        click.echo(f"\r{done}/{total} chunks", err=True, nl=done == total)


def _print_result(as_json: bool, document: dict[str, Any], text: str) -> None:
    if as_json:
        _print_json(document)
    else:
        click.echo(text)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
