"""How `fleet` speaks: results on stdout (a table or one JSON document), all else on stderr.

What a command does and what its result holds is main.py's matter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from edge_agent.contract.errors import HoldfastError, Rejected

PIPE_CHARS = 400  # a script that reads text gets each row of a table on one line


def emit(document: Mapping[str, Any], *, as_json: bool, text: Callable[[Console], None]) -> None:
    """Print a result: one JSON document, or what `text` draws."""
    if as_json:
        click.echo(json.dumps(document, indent=2, sort_keys=True))
    else:
        console = Console(highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.width = PIPE_CHARS
        text(console)


def fail(error: HoldfastError, *, as_json: bool, known: Mapping[str, Any] | None = None) -> NoReturn:
    """Say what is wrong and what to do (with --json also as a document), and leave with its exit code.

    known: what else the document says, of something that was begun and did not end well.
    """
    if as_json:
        click.echo(json.dumps({**error.document(), **(known or {})}, indent=2, sort_keys=True))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    word = f" ({error.reason.value})" if error.reason is not None else ""
    verb = "refused" if isinstance(error, Rejected) else "failed"
    console.print(f"[bold red]{verb}[/]{word}: ", end="")
    console.print(printable(error.message), markup=False)
    if error.next_step:
        console.print("next step: ", style="bold", end="")
        console.print(printable(error.next_step), markup=False)
    sys.exit(error.exit_code)


def note(text: str) -> None:
    """A line for people, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(printable(text), markup=False)


def printable(text: str) -> str:
    """Text of somebody else (a device, a server) without characters that could drive a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def cell(text: object, style: str = "") -> Text:
    """A cell of a table; text of somebody else is no markup in it."""
    return Text(printable(str(text)), style=style)


def plain_table(*columns: str) -> Table:
    """A table as all results have it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


class ProgressBars(AbstractContextManager["ProgressBars"]):
    """The Progress of `publish`, drawn on stderr; a line per step where stderr is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()
        self._bars.stop()

    def step(self, text: str, total_bytes: int) -> None:
        """A new step; the one before is done."""
        self._finish()
        if self._bars.disable:
            note(f"{text} …")
        self._task = self._bars.add_task(text, total=total_bytes or None)

    def advance(self, done_bytes: int) -> None:
        """So many more bytes are done."""
        if self._task is not None:
            self._bars.advance(self._task, done_bytes)

    def _finish(self) -> None:
        if self._task is not None:
            done = self._bars.tasks[self._task].completed or 1
            self._bars.update(self._task, total=done, completed=done)
            self._task = None
