"""`fleet devices …`: what serves where, what is on its way, and what each device turned away and why.

What a device tells is collected by the coordinator; here it is only shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from cloud_sync.client.documents import Device, Health, Ref, Report, Slot
from cloud_sync.operator_cli.options import (
    connect,
    coordinator_options,
    from_unix_ms,
    iso,
    json_option,
    speaks_of_errors,
)
from cloud_sync.operator_cli.output import cell, emit, note, plain_table
from edge_agent.contract.reasons import reason_from_word


@click.group()
def devices() -> None:
    """The devices that ever said hello to the coordinator."""


@devices.command("list")
@coordinator_options()
@json_option
@speaks_of_errors
def devices_list(coordinator_url: str, token_file: Path, as_json: bool) -> None:
    """Every device: when it was heard, what serves, what is on its way, and what it turned away with its reason."""
    with connect(coordinator_url, token_file) as coordinator:
        told = coordinator.devices()
        health = coordinator.health()
    note_health(health.view)

    def text(console: Console) -> None:
        _print_devices(console, told.view.devices, told.at_unix_ms)
        _print_troubles(console, told.view.devices)

    document = {**told.document, "coordinator_unix_ms": told.at_unix_ms, "coordinator": health.document}
    emit(document, as_json=as_json, text=text)


@devices.command("show")
@click.argument("device_id", metavar="ID")
@coordinator_options()
@json_option
@speaks_of_errors
def devices_show(device_id: str, coordinator_url: str, token_file: Path, as_json: bool) -> None:
    """One device, with the newest facts that it reported."""
    with connect(coordinator_url, token_file) as coordinator:
        told = coordinator.device(device_id)
    device = told.view

    def text(console: Console) -> None:
        _print_devices(console, (device,), told.at_unix_ms)
        taken = f"epoch {device.epoch}, revision {device.revision}" if device.revision else "none"
        console.print()
        console.print(cell(f"agent {device.agent_version}; assignment taken: {taken}"))
        _print_slots(console, device)
        _print_troubles(console, (device,))
        _print_reports(console, device.reports)

    emit({**told.document, "coordinator_unix_ms": told.at_unix_ms}, as_json=as_json, text=text)


@devices.command("token")
@click.argument("device_id", metavar="ID")
@coordinator_options()
@json_option
@speaks_of_errors
def devices_token(device_id: str, coordinator_url: str, token_file: Path, as_json: bool) -> None:
    """The token with which this device fetches over HTTP, alone on stdout. Keep it as secret as a password."""
    with connect(coordinator_url, token_file) as coordinator:
        told = coordinator.device_token(device_id)
    emit(told.document, as_json=as_json, text=lambda _: click.echo(told.view.token))


def note_health(health: Health) -> None:
    """Say what keeps the coordinator from acting, where something does: what is shown may be old then."""
    if health.planning.stopped is not None:
        note(f"The coordinator plans nothing: {health.planning.stopped}")
    if not health.broker.connected:
        note("The coordinator is not connected to the broker: it hears no device and reaches none. See its log.")


def ago(at_unix_ms: int | None, now_unix_ms: int | None) -> str:
    """How long ago that was. Both are the coordinator's clock, so that nobody else's can be wrong here."""
    if not at_unix_ms:
        return "never"
    if now_unix_ms is None:
        return iso(from_unix_ms(at_unix_ms)) or "?"
    seconds = max(0, now_unix_ms - at_unix_ms) // 1000
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds // length_s} {unit} ago"
    return f"{seconds} s ago"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that an operator should know of one device. reason: a word, of docs/reasons.md if it is known."""

    device_id: str
    what: str
    reason: str
    detail: str


def troubles(device: Device) -> Iterator[Trouble]:
    """All that is not as it should be there, newest refusals last, as the device told it."""
    if device.storage:
        yield Trouble(device.device_id, "state folder", device.storage, "")
    if device.lost_reports:
        yield Trouble(device.device_id, "reports", "lost", f"{device.lost_reports} never came: its outbox was full")
    for model, slot in device.models.items():
        if not slot.serving:
            yield Trouble(device.device_id, model, slot.reason or "not_serving", "answers nobody")
        elif slot.pinned:
            yield Trouble(device.device_id, model, "pinned", f"{version_of(slot.active)}, until a newer rollout")
        elif slot.held:
            against = f"; {slot.assigned.version} is assigned, and held until a newer rollout" if slot.assigned else ""
            yield Trouble(device.device_id, model, "operator", f"serves {version_of(slot.active)}{against}")
        elif slot.reason:
            wanted = f" instead of {slot.wanted.version}" if slot.wanted else ""
            yield Trouble(device.device_id, model, slot.reason, f"serves {version_of(slot.active)}{wanted}")
        if slot.damaged:
            yield Trouble(device.device_id, model, "damage", f"{slot.damaged} snapshots have damaged bytes")
        yield from refusals(device.device_id, model, slot)


def refusals(device_id: str, model: str, slot: Slot, digest: str | None = None) -> Iterator[Trouble]:
    """What the device does not take (only this digest, if one is given), each with the device's own reason."""
    declined = (slot.declined,) if slot.declined else ()
    for away in (*declined, *slot.turned_away):
        if digest is None or away.digest == digest:
            again = "not tried again" if away.blocked else ""
            detail = ": ".join(part for part in (again, away.detail) if part)
            yield Trouble(device_id, f"{model}@{away.version or away.digest[:12]}", away.reason, detail)


def explain(console: Console, words: Iterable[str]) -> None:
    """What each word means and what to do, once."""
    for word in dict.fromkeys(words):
        try:
            reason = reason_from_word(word)
        except KeyError:
            continue  # of a newer device; its detail is all we know
        console.print(cell(f"{word}: {reason.log_line}"))
        console.print(cell(f"  next step: {reason.next_step}"))


def version_of(ref: Ref | None) -> str:
    """For a table."""
    return ref.version or ref.digest[:12] if ref else "-"


def _print_devices(console: Console, listed: Iterable[Device], now_unix_ms: int | None) -> None:
    table = plain_table("device", "type", "online", "last heard", "model", "serves", "candidate", "assigned")
    for device in listed:
        online = cell("yes") if device.online else cell("no", "yellow")
        heard = ago(device.last_heard_unix_ms, now_unix_ms)
        head = (cell(device.device_id), cell(device.device_type), online, cell(heard))
        for model, slot in device.models.items():
            serves = cell(version_of(slot.active)) if slot.serving else cell("nothing", "red")
            coming = slot.candidate
            candidate = f"{version_of(coming)} ({coming.phase})" if coming else "-"
            table.add_row(*head, cell(model), serves, cell(candidate), cell(version_of(slot.assigned)))
        if not device.models:
            table.add_row(*head, "-", "-", "-", "-")
    console.print(table)


def _print_slots(console: Console, device: Device) -> None:
    table = plain_table("model", "snapshot", "version", "digest", "generation")
    for model, slot in device.models.items():
        named = (("active", slot.active), ("wanted", slot.wanted), ("assigned", slot.assigned))
        for role, ref in named:
            if ref is not None:
                generation = str(ref.generation) if role == "assigned" else ""
                table.add_row(cell(model), role, cell(ref.version), cell(ref.digest[:12]), generation)
        table.add_row(cell(model), "fallbacks", str(slot.fallbacks), "", "")
    console.print(table)


def _print_troubles(console: Console, listed: Iterable[Device]) -> None:
    found = [trouble for device in listed for trouble in troubles(device)]
    print_troubles(console, found)


def print_troubles(console: Console, found: list[Trouble]) -> None:
    """A table of them, and below it what the words mean."""
    if not found:
        return
    table = plain_table("device", "what", "reason", "detail")
    for trouble in found:
        table.add_row(cell(trouble.device_id), cell(trouble.what), cell(trouble.reason, "yellow"), cell(trouble.detail))
    console.print()
    console.print(table)
    console.print()
    explain(console, (trouble.reason for trouble in found))


def _print_reports(console: Console, reports: Iterable[Report]) -> None:
    """Newest first, as they came; their time is the device's own."""
    table = plain_table("number", "time (the device's clock)", "what", "snapshot", "phase", "reason", "detail")
    for report in reports:
        snapshot = f"{report.model}@{report.version}" if report.version else report.model or ""
        when = iso(from_unix_ms(report.at_unix_ms)) or "?"
        parts = (report.number, when, report.kind, snapshot, report.phase or "", report.reason or "", report.detail)
        table.add_row(*(cell(part) for part in parts))
    if table.row_count:
        console.print()
        console.print(table)
