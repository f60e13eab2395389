"""What was measured: figures with their samples and ratios, as a table for people and a document for machines.

Nothing is measured here.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent import AGENT_VERSION
from edge_agent.contract.errors import HoldfastError

LIBRARIES = ("aiohttp", "uvloop", "numpy", "msgspec")
UNMEASURED = (HoldfastError, OSError, AssertionError, RuntimeError, ValueError, KeyError)
WHY_CHARACTERS_MAX = 400


@dataclass
class Figure:
    """One figure of one model. ratios: each round's sample against the other figure's sample of the same round."""

    model: str
    name: str
    unit: str
    samples: list[float] = field(default_factory=list)
    ratio_to: str = ""
    ratios: list[float] = field(default_factory=list)


@dataclass
class Results:
    """Everything that one run found out."""

    quick: bool
    console: Console
    figures: dict[tuple[str, str], Figure] = field(default_factory=dict)
    not_measured: list[tuple[str, str]] = field(default_factory=list)
    load_average: list[float] = field(default_factory=lambda: [os.getloadavg()[0]])
    versions: dict[str, str] = field(default_factory=lambda: library_versions())
    engine_versions: dict[str, str] = field(default_factory=dict)

    def add(self, model: str, name: str, unit: str, value: float, *, to: str = "", other: float | None = None) -> float:
        """One sample; `other` is what it is compared with in this round, and `to` says what that is."""
        figure = self.figures.setdefault((model, name), Figure(model, name, unit, ratio_to=to))
        figure.samples.append(value)
        if other:
            figure.ratios.append(value / other)
        return value

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Whatever goes wrong meanwhile is told in the end, and the rest is measured all the same."""
        self.load_average.append(os.getloadavg()[0])
        self.console.print(f"[dim]{what}[/]", highlight=False)
        try:
            yield
        except UNMEASURED as error:
            why = f"{type(error).__name__}: {error}"[:WHY_CHARACTERS_MAX]
            self.not_measured.append((what, why))
            self.console.print("[red]not measured[/], told again in the end", highlight=False)

    def add_failures(self, model: str, name: str, counted: dict[str, Any]) -> None:
        """Requests that were not answered; why, when there are any."""
        self.add(model, name, "", counted["failed"])
        for at_s, text in counted["failures"]:
            self.console.print(f"[red]a request failed[/] at {at_s:.3f}: {escape(text)}", highlight=False)

    def table(self) -> Table:
        """For people."""
        table = Table(title="Holdfast: medians of one run; compare ratios, not times", title_justify="left")
        for name, justify in (("figure", "left"), ("median", "right"), ("min-max", "right"), ("ratio", "right"),
                              ("min-max", "right"), ("to", "left")):  # fmt: skip
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        model = ""
        for figure in self.figures.values():
            if figure.model != model:
                model = figure.model
                table.add_section()
                table.add_row(f"[bold]{model}[/]")
            ratio = number(statistics.median(figure.ratios)) if figure.ratios else ""
            spread = f"{number(min(figure.ratios))}-{number(max(figure.ratios))}" if figure.ratios else ""
            low, high = number(min(figure.samples)), number(max(figure.samples))
            median = f"{number(statistics.median(figure.samples))} {figure.unit}"
            table.add_row(figure.name, median, f"{low}-{high}", ratio, spread, figure.ratio_to if ratio else "")
        return table

    def document(self, took_s: float) -> dict[str, Any]:
        """For machines."""
        return {
            "machine": machine(),
            "versions": {**self.versions, "engine": self.engine_versions},
            "quick": self.quick,
            "took_s": round(took_s, 1),
            "load_average_1_min": self.load_average,
            "figures": [
                {
                    **asdict(figure),
                    "median": statistics.median(figure.samples),
                    "ratio": statistics.median(figure.ratios) if figure.ratios else None,
                }
                for figure in self.figures.values()
            ],
            "not_measured": [{"what": what, "why": why} for what, why in self.not_measured],
        }


def number(value: float) -> str:
    """Three digits that matter."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> dict[str, Any]:
    """What this ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
    }


def library_versions() -> dict[str, str]:
    """Of the agent's environment."""
    return {
        "holdfast": AGENT_VERSION,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }
