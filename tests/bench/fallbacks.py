"""What a client feels of a fallback: the serving snapshot's bytes are damaged on disk and its worker is killed, so that
the device has to go down the ladder. Swaps and kills that need no other snapshot are in `interruptions`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.children import Trace
from tests.bench.device import Subject, ask, bring_in, first_answer, port_of
from tests.bench.figures import Results
from tests.bench.interruptions import CONCURRENCY, FACTORY, GAP, UPDATE, quiet
from tests.harness.agent import Agent, wait_until
from tests.harness.damage import flip_parameters

WATCHED_S = 600.0  # the update stays in probation, where the one before is the spare


@dataclass(frozen=True)
class Readiness:
    """How ready the next rung is. warm: a loaded worker of it stands by. fork_server: an engine is imported already."""

    name: str
    warm: bool
    fork_server: bool


READINESS = (
    Readiness("warm spare", warm=True, fork_server=True),
    Readiness("cold spare (imported engine)", warm=False, fork_server=True),
    Readiness("no spare", warm=False, fork_server=False),
)


def measure(results: Results, subject: Subject, repository: Path, folder: Path, bare_s: float, *, times: int) -> None:
    """Each readiness so many times, in turns. bare_s: what a bare start takes, to compare with."""
    for number in range(times):
        for position, readiness in enumerate(READINESS):
            agent = subject.agent(
                folder / f"{subject.name[0]}f{number}{position}", probation_s=WATCHED_S, spare=readiness.warm
            )
            with agent:
                _once(results, subject, repository, agent, readiness, bare_s)


def _once(
    results: Results, subject: Subject, repository: Path, agent: Agent, readiness: Readiness, bare_s: float
) -> None:
    agent.start()
    first_answer(agent, subject)
    bring_in(agent, subject, subject.bundles[UPDATE])
    update, factory = subject.digests[UPDATE], subject.digests[FACTORY]
    standing_by = 1 if readiness.warm else 0
    wait_until(
        lambda: len(agent.workers(update)) == 1 and len(agent.workers(factory)) == standing_by, "the update is watched"
    )
    flip_parameters(agent.state_dir / "models.db", repository, subject.bundles[UPDATE])
    ask(agent, "verify")
    wait_until(lambda: len(agent.workers(factory)) == standing_by, "the damage is known")
    with Trace(port_of(agent), subject.request_file, CONCURRENCY) as trace:
        quiet()
        begin_s = time.monotonic()
        for pid in _victims(agent, update, readiness):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: agent.model(subject.name)["serving"] and agent.workers(factory), "the ladder held")
        end_s = time.monotonic()
        quiet()
    gap_s = trace.longest_gap_s(begin_s, end_s)
    name = f"fallback, {readiness.name}"
    results.add(subject.name, f"{name}: {GAP}", "ms", gap_s * 1e3, to="bare start", other=bare_s * 1e3)
    results.add_failures(subject.name, f"  {name}: failed requests", trace.result)


def _victims(agent: Agent, digest: str, readiness: Readiness) -> list[int]:
    workers = [worker["pid"] for worker in agent.workers(digest)]
    zygotes = [] if readiness.fork_server else [entry["pid"] for entry in agent.status()["processes"]["zygotes"]]
    return [*zygotes, *workers]
