"""`fleet rollout …`, `fleet rollback` and `fleet resume`: an operator's wishes, and how far they have come.

The coordinator decides what follows from a wish; following.py waits for its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cloud_sync.client.api import Coordinator, Told
from cloud_sync.client.documents import Device, OneRollout, Rollout
from cloud_sync.operator_cli.devices import Trouble, note_health, print_troubles, refusals, version_of
from cloud_sync.operator_cli.following import STAGES, follow, judge, names_of, summary
from cloud_sync.operator_cli.options import (
    connect,
    coordinator_options,
    from_unix_ms,
    iso,
    json_option,
    speaks_of_errors,
)
from cloud_sync.operator_cli.output import cell, emit, fail, note, plain_table
from cloud_sync.operator_cli.policies import policy_option, read_policy
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable

WAIT_S_MAX = 7 * 86400.0

to_option = click.option("--to", "version", required=True, metavar="VERSION", help="The version that should run.")
device_option = click.option(
    "--device", "device_ids", multiple=True, metavar="ID", help="Only this device; may be repeated. Default: all."
)
wait_option = click.option(
    "--wait", "wait_s", type=click.FloatRange(0, WAIT_S_MAX), metavar="S",
    help="Follow it until it is done or halted, S seconds at most. Exit 1 when it is not done then.",
)  # fmt: skip


@click.group()
def rollout() -> None:
    """Rollouts: which version which devices should run."""


@rollout.command("start")
@click.argument("model")
@to_option
@click.option(
    "--strategy", type=click.Choice(["all", "one"]), default="all", show_default=True,
    help="All devices at once, or one after the other, stopping at the first that fails.",
)  # fmt: skip
@policy_option("What an update has to show, over what the devices' agent.toml says, for example shadow_s=60.")
@device_option
@wait_option
@coordinator_options()
@json_option
@speaks_of_errors
def rollout_start(
    model: str, version: str, strategy: str, policy_words: tuple[str, ...], device_ids: tuple[str, ...],
    wait_s: float | None, coordinator_url: str, token_file: Path, as_json: bool,
) -> None:  # fmt: skip
    """Assign a published version of MODEL to the devices that run it."""
    policy = read_policy(policy_words)
    with connect(coordinator_url, token_file) as coordinator:
        begun = coordinator.start_rollout(model, version, strategy, device_ids or None, policy)
        _tell_begun(coordinator, begun, wait_s, as_json)


@click.command("rollback")
@click.argument("model")
@to_option
@device_option
@wait_option
@coordinator_options()
@json_option
@speaks_of_errors
def rollback(
    model: str, version: str, device_ids: tuple[str, ...], wait_s: float | None, coordinator_url: str,
    token_file: Path, as_json: bool,
) -> None:  # fmt: skip
    """Put an earlier version of MODEL back on all devices that run it, at once."""
    with connect(coordinator_url, token_file) as coordinator:
        begun = coordinator.roll_back(model, version, device_ids or None)
        _tell_begun(coordinator, begun, wait_s, as_json)


@rollout.command("status")
@click.argument("rollout_id", metavar="[ID]", required=False)
@click.option(
    "--watch", is_flag=True, help="Follow it (without ID: the newest) until it is done, halted or superseded."
)
@coordinator_options()
@json_option
@speaks_of_errors
def rollout_status(rollout_id: str | None, watch: bool, coordinator_url: str, token_file: Path, as_json: bool) -> None:
    """All rollouts, or one with each of its devices and why those that did not take it did not."""
    with connect(coordinator_url, token_file) as coordinator:
        health = coordinator.health()
        note_health(health.view)
        if rollout_id is None and not watch:
            told = coordinator.rollouts()
            emit(
                {**told.document, "coordinator": health.document},
                as_json=as_json,
                text=lambda console: _print_rollouts(console, told.view.rollouts),
            )
            return
        one = coordinator.rollout(rollout_id if rollout_id is not None else _newest(coordinator).id)
        if watch:
            one = follow(coordinator, one, None)
        _tell(coordinator, one, judge(one.view) if watch else None, as_json)


@click.command("resume")
@coordinator_options()
@json_option
@speaks_of_errors
def resume(coordinator_url: str, token_file: Path, as_json: bool) -> None:
    """Accept the coordinator's database as it is, after it was restored from a backup: it plans again."""
    with connect(coordinator_url, token_file) as coordinator:
        told = coordinator.resume()
    stopped = told.view.planning.stopped
    if stopped is not None:
        raise Unavailable(f"the coordinator still plans nothing: {stopped}", next_step="See its /health and its log")
    emit(told.document, as_json=as_json, text=lambda console: console.print("The coordinator plans again."))


def _newest(coordinator: Coordinator) -> Rollout:
    rollouts = coordinator.rollouts().view.rollouts
    if not rollouts:
        raise Rejected("there is no rollout yet", next_step="Begin one: `fleet rollout start MODEL --to VERSION`")
    return max(rollouts, key=lambda one: one.created_unix_ms)


def _tell_begun(coordinator: Coordinator, begun: Told[OneRollout], wait_s: float | None, as_json: bool) -> None:
    one = Told(begun.document["rollout"], begun.view.rollout, begun.at_unix_ms)
    line = f"{one.view.kind} {one.view.id} has begun: {summary(one.view)}"
    if wait_s is None:
        line += f"; follow it with `fleet rollout status {one.view.id} --watch`"
        emit({"rollout": one.document}, as_json=as_json, text=lambda console: console.print(cell(line)))
        return
    note(line)
    last = follow(coordinator, one, wait_s)
    _tell(coordinator, last, judge(last.view, wait_s), as_json)


def _tell(coordinator: Coordinator, one: Told[Rollout], trouble: HoldfastError | None, as_json: bool) -> None:
    """Print one rollout, with the devices' own reasons; leave with exit code 1 when it did not end well."""
    try:
        devices = coordinator.devices().view.devices
    except Unavailable as error:  # what was known of the rollout is told nevertheless
        devices, trouble = (), trouble or error
    found = failures(one.view, devices)
    document: dict[str, Any] = {
        "rollout": one.document,
        "refusals": [{"device_id": each.device_id, "reason": each.reason, "detail": each.detail} for each in found],
    }
    if trouble is None or not as_json:
        emit(document, as_json=as_json, text=lambda console: _print_one(console, one.view, devices, found))
    if trouble is not None:
        fail(trouble, as_json=as_json, known=document)


def failures(rollout: Rollout, devices: tuple[Device, ...]) -> list[Trouble]:
    """What the devices of this rollout say against its snapshot, each for its own reason."""
    return [
        trouble
        for device in devices
        if rollout.devices.get(device.device_id, "done") != "done" and rollout.model in device.models
        for trouble in refusals(device.device_id, rollout.model, device.models[rollout.model], rollout.digest)
    ]


def _print_rollouts(console: Console, rollouts: tuple[Rollout, ...]) -> None:
    table = plain_table("id", "what", "snapshot", "strategy", "begun", "state", "devices", "halted by")
    for one in rollouts:
        by = f"{one.halted_by.device_id}: {one.halted_by.reason}" if one.halted_by else ""
        begun = iso(from_unix_ms(one.created_unix_ms)) or ""
        label = f"{one.model}@{one.version}"
        parts = (one.id, one.kind, label, one.strategy, begun, one.state, summary(one), by)
        table.add_row(*(cell(part) for part in parts))
    console.print(table)


def _print_one(console: Console, one: Rollout, devices: tuple[Device, ...], found: list[Trouble]) -> None:
    console.print(cell(f"{one.kind} {one.id}: {one.model}@{one.version}, {one.strategy}, {one.state}: {summary(one)}"))
    if one.halted_by:
        console.print(cell(f"halted by {one.halted_by.device_id}: {one.halted_by.reason}", "yellow"))
    if offline := names_of(one, "offline"):
        console.print(cell(f"offline, and given it when they come back: {offline}"))
    serving = {device.device_id: device.models.get(one.model) for device in devices}
    table = plain_table("device", "state", "serves")
    order = {stage: number for number, stage in enumerate(STAGES)}
    for device_id, stage in sorted(one.devices.items(), key=lambda item: (order.get(item[1], 0), item[0])):
        slot = serving.get(device_id)
        serves = version_of(slot.active) if slot and slot.serving else "nothing" if slot else "-"
        table.add_row(cell(device_id), cell(stage, "red" if stage == "failed" else ""), cell(serves))
    console.print(table)
    print_troubles(console, found)
