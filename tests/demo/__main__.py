"""Plays the story, prints a table, writes the report; exit code 0 only if every step held."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.demo.report import write_report
from tests.demo.stage import Stage
from tests.demo.story import STORY
from tests.harness.agent import ROOT, ShortFolder

REPORT = ROOT / "demo-report.html"


def play(folder: Path, console: Console) -> Stage:
    """All steps; whatever was started is ended, also when a step fails."""
    stage = Stage(folder, console)
    journal: list[dict[str, object]] = []
    try:
        for step in STORY:
            step(stage)
            if not stage.steps[-1].held and step.__name__ in ("publish", "start", "gather"):
                break
        if stage.clients:
            journal = stage.agent.cli_json("history", "--newest", "400")["lines"]
    finally:
        stage.end()
    if stage.clients:
        write_report(stage, REPORT, journal)
    return stage


def main() -> int:
    """0: every step held."""
    console = Console(soft_wrap=True)
    started = time.monotonic()
    console.print("[bold]Holdfast[/]: devices that keep answering with a model that they have proven themselves\n")
    try:
        with ShortFolder() as folder:
            stage = play(folder, console)
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started is ended")
        return 130
    table = Table("step", "outcome", "seconds", title="What was promised, and what was seen")
    for step in stage.steps:
        table.add_row(step.title, "[green]held[/]" if step.held else "[red]FAILED[/]", f"{step.took_s:.1f}")
    console.print(table)
    held = all(step.held for step in stage.steps) and stage.steps[-1].title.startswith("All answers")
    if REPORT.exists():
        console.print(
            f"report with a timeline: {REPORT.relative_to(Path.cwd()) if REPORT.is_relative_to(Path.cwd()) else REPORT}"
        )
    console.print(
        f"{'every step held' if held else 'NOT every step held'}, {time.monotonic() - started:.0f} s", highlight=False
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
