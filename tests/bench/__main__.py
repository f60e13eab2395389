"""Runs every benchmark, or the parts that are named, prints a table, writes the document; exit code 1 if something was
not measured.

What is measured how is in the modules beside this one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tests.bench import downloads, fallbacks, interruptions, returning, standing, storing, throughput
from tests.bench.device import RECIPES, Subject, port_of, prepare, wait_steady
from tests.bench.figures import Results
from tests.harness.agent import Agent, ShortFolder
from tests.models_cache import Recipe, make_all
from tests.publishing import Publisher

LOAD_AVERAGE_QUIET = 0.5


@dataclass(frozen=True)
class Plan:
    """How often, and how long, in seconds; downloads and returns are of the line."""

    lives: int
    kills: int
    rounds: int
    seconds: float
    downloads: int
    returns: int
    fallbacks: int
    stores: int


FULL = Plan(lives=3, kills=8, rounds=9, seconds=1.0, downloads=3, returns=10, fallbacks=5, stores=5)
QUICK = Plan(lives=1, kills=2, rounds=1, seconds=0.5, downloads=1, returns=2, fallbacks=1, stores=1)


def measure(results: Results, subject: Subject, folder: Path, plan: Plan) -> None:
    """One model: several lives of a device; the last one is killed at, loaded and weighed."""
    name = subject.name
    for life in range(plan.lives):
        with results.measuring(f"{name}: bare start, boots and swaps, {life + 1} of {plan.lives}"):
            bare_s, bare_bytes = standing.bare_boot(results, subject)
            agent = subject.agent(folder / f"{name[0]}{life}")
            with agent:
                interruptions.boot(agent, subject)
                wait_steady(agent, subject, subject.digests[interruptions.FACTORY])
                interruptions.swaps(results, subject, agent, bare_s)
                agent.stop()
                took_s = interruptions.boot(agent, subject)
                results.add(name, "cold boot: start to first answer", "s", took_s, to="bare start", other=bare_s)
                wait_steady(agent, subject, subject.digests[interruptions.FACTORY])
                if life == plan.lives - 1:
                    _under_load(results, subject, agent, plan, bare_s, bare_bytes)


def _under_load(results: Results, subject: Subject, agent: Agent, plan: Plan, bare_s: float, bare_bytes: float) -> None:
    with results.measuring(f"{subject.name}: kills of the serving worker"):
        interruptions.kills(results, subject, agent, bare_s, times=plan.kills)
    with results.measuring(f"{subject.name}: requests per second"):
        throughput.measure(results, subject, port_of(agent), rounds=plan.rounds, seconds=plan.seconds)
    with results.measuring(f"{subject.name}: memory"):
        standing.memory(results, subject, agent, bare_bytes)


def one_device(results: Results, plan: Plan) -> None:
    """Both models, each on a device of its own."""
    with ShortFolder() as folder:
        subjects = []
        with results.measuring("models: made by their recipes once, packed, signed, bundled"):
            make_all([Recipe(recipe, version) for recipe in RECIPES.values() for version in ("1.0.0", "1.1.0")])
            publisher = Publisher(folder / "publisher")
            subjects = [prepare(name, publisher, folder) for name in RECIPES]
        for subject in subjects:
            measure(results, subject, folder, plan)


def line_downloads(results: Results, plan: Plan) -> None:
    """100 MB over the line."""
    with ShortFolder() as folder, results.measuring("100 MB: broker, coordinator, publisher"):
        downloads.measure(results, folder, rounds=plan.downloads, rollbacks=plan.returns)


def line_returns(results: Results, plan: Plan) -> None:
    """Three devices go back."""
    with ShortFolder() as folder, results.measuring("digits on three devices: started"):
        make_all([Recipe(RECIPES["digits"], version) for version in returning.VERSIONS])
        returning.measure(results, folder, times=plan.returns)


def one_device_falls_back(results: Results, plan: Plan) -> None:
    """Down the ladder, with the next rung more and less ready."""
    with ShortFolder() as folder:
        with results.measuring("digits: packed, signed, bundled"):
            make_all([Recipe(RECIPES["digits"], version) for version in ("1.0.0", "1.1.0")])
            publisher = Publisher(folder / "publisher")
            subject = prepare("digits", publisher, folder)
        with results.measuring("digits: fallbacks"):
            bare_s, _ = standing.bare_boot(results, subject)
            repository = publisher.repository.folder
            fallbacks.measure(results, subject, repository, folder, bare_s, times=plan.fallbacks)


def one_snapshot_is_stored(results: Results, plan: Plan) -> None:
    """100 MB to the disk."""
    with results.measuring("100 MB into the store"):
        storing.measure(results, rounds=plan.stores)


PARTS = {
    "device": one_device,
    "fallback": one_device_falls_back,
    "store": one_snapshot_is_stored,
    "download": line_downloads,
    "rollback": line_returns,
}


def main() -> int:
    """0: everything was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything: does it run at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a document for machines")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="only this; may be given several times (default: all)"
    )
    options = parser.parse_args()
    console = Console(stderr=True)
    results = Results(options.quick, console)
    started_s = time.monotonic()
    for name in options.part or PARTS:
        PARTS[name](results, QUICK if options.quick else FULL)
    took_s = time.monotonic() - started_s
    results.load_average.append(os.getloadavg()[0])
    Console(width=None if sys.stdout.isatty() else 120).print(results.table())
    before = results.load_average[0]
    console.print(f"{took_s:.0f} s; load average {before:.2f} before, {results.load_average[-1]:.2f} after")
    if before > LOAD_AVERAGE_QUIET:
        console.print("[yellow]other work was running: trust the ratios, not the times[/]")
    for what, why in results.not_measured:
        console.print(f"[red]not measured:[/] {what}: {escape(why)}", highlight=False)
    if options.json:
        options.json.write_text(json.dumps(results.document(took_s), indent=2) + "\n", encoding="utf-8")
    return 1 if results.not_measured else 0


if __name__ == "__main__":
    sys.exit(main())
