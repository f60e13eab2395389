"""Status and history as text for people; the documents themselves come from the agent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_agent.contract.reasons import Reason, reason_from_word
from edge_agent.story import told

PIPE_CHARS = 400  # a script that reads text gets each row on one line


def print_status(document: dict[str, Any]) -> None:
    """One table per device, then what needs attention."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPE_CHARS
    console.print(f"[bold]{document['device_id']}[/] agent {document['agent_version']} on http://{document['http']}")
    if document["storage"]:
        _say(console, "state folder", document["storage"])
    _print_link(console, document["sync"])
    table = Table()
    for column in ("model", "serves", "status", "last good", "candidate", "workers", "fallbacks"):
        table.add_column(column, no_wrap=console.width >= PIPE_CHARS, overflow="fold")
    for name, model in document["models"].items():
        candidate = model["candidate"]
        table.add_row(
            name,
            model["active"]["version"] if model["active"] else "[red]nothing[/]",
            model["status"] if model["serving"] else f"[red]{model['status']}[/]",
            model["last_good"]["version"] if model["last_good"] else "-",
            f"{candidate['version']} ({candidate['phase']})" if candidate else "-",
            str(model["workers"]),
            str(model["fallbacks"]),
        )
    console.print(table)
    for name, model in document["models"].items():
        if model.get("pinned"):
            console.print(f"{name}: pinned here: nothing new is taken until `edge-agent unpin` or a newer rollout")
        elif model["assigned"] and model["assigned"]["held"]:
            console.print(f"{name}: {model['assigned']['version']} is assigned; what was chosen here holds against it")
        if model["reason"]:
            _say(console, name, model["reason"])
        for snapshot in model["snapshots"]:
            if snapshot["damaged"]:
                _say(console, f"{name}@{snapshot['version']}", Reason.DAMAGE.value)
        for record in model["quarantined"]:
            _say(console, f"{name}@{record['version']}", record["reason"], record["detail"])


def _print_link(console: Console, sync: dict[str, Any]) -> None:
    """How it stands with the coordinator, where there is one."""
    if not sync["configured"]:
        return
    since = datetime.fromtimestamp(sync["since"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    state = "connected" if sync["connected"] else "[yellow]not connected[/]"
    why = f" ({sync['detail']})" if sync["detail"] else ""
    console.print(f"coordinator: {state} since {since}", highlight=False, end="")
    console.print(f"{why}; {sync['outbox']} reports wait", highlight=False, markup=False)


def _say(console: Console, what: str, word: str, detail: str = "") -> None:
    try:
        reason = reason_from_word(word)
    except KeyError:
        console.print(f"{what}: {word} {detail}")
        return
    console.print(f"[yellow]{what}[/]: {word}: {reason.log_line}. {detail}", highlight=False)
    console.print(f"  -> {reason.next_step}", highlight=False)


def print_history(lines: list[dict[str, Any]]) -> None:
    """One line a fact, oldest first."""
    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(told(line), markup=False)
