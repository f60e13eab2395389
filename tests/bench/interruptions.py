"""What a client feels while a worker is killed and while a snapshot is swapped: gaps, slowest requests, failures.

The load runs in another process and keeps the time of each answer; both read the same clock of the machine.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

from tests.bench.children import Trace
from tests.bench.device import Subject, ask, bring_in, busy_worker, first_answer, port_of, wait_steady
from tests.bench.figures import Results
from tests.harness.agent import Agent, wait_until

CONCURRENCY = 4
QUIET_S = 0.6  # undisturbed load, to compare with
AFTERWARDS_S = 0.2  # so that an answer follows
GAP = "longest gap between answers"
FACTORY, UPDATE = 0, 1  # positions of the two snapshots


def quiet(duration_s: float = QUIET_S) -> tuple[float, float]:
    """Let the load run; begin and end."""
    begin_s = time.monotonic()
    wait_until(lambda: time.monotonic() > begin_s + duration_s, "time passes")
    return begin_s, time.monotonic()


def swaps(results: Results, subject: Subject, agent: Agent, bare_s: float) -> None:
    """One import of a snapshot that the device has never seen, and one rollback, under load.

    bare_s: what a bare start takes, to compare with.
    """
    with Trace(port_of(agent), subject.request_file, CONCURRENCY) as trace:
        calm = quiet()
        windows = []
        for name, position in (("import", UPDATE), ("rollback", FACTORY)):
            called_s = time.monotonic()
            if name == "import":
                bring_in(agent, subject, subject.bundles[position])
            else:
                ask(agent, "rollback", model=subject.name)
            wait_steady(agent, subject, subject.digests[position])
            windows.append((name, subject.digests[position], called_s, time.monotonic()))
            quiet(AFTERWARDS_S)
    calm_gap_s = trace.longest_gap_s(*calm)
    for name, digest, called_s, settled_s in windows:
        took_s = trace.first_other_s(digest, called_s) - called_s
        gap_s = trace.longest_gap_s(called_s, settled_s)
        for what, value_s in ((f"{name}: call to first answer of it", took_s), (f"  {name}: {GAP}", gap_s)):
            results.add(subject.name, what, "ms", value_s * 1e3, to="bare start", other=bare_s * 1e3)
    results.add(subject.name, f"  calm: {GAP}", "ms", calm_gap_s * 1e3)
    results.add_failures(subject.name, "  swaps: failed requests", trace.result)


def kills(results: Results, subject: Subject, agent: Agent, bare_s: float, *, times: int) -> None:
    """SIGKILL of the worker that computes, again and again, under load."""
    digest = subject.digests[FACTORY]
    with Trace(port_of(agent), subject.request_file, CONCURRENCY) as trace:
        quiet()
        windows = []
        for _ in range(times):
            victim = busy_worker(agent, digest)
            begin_s = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(is_gone, victim), "the worker is gone")
            wait_steady(agent, subject, digest)
            windows.append((begin_s, time.monotonic()))
            quiet(AFTERWARDS_S)
    for window in windows:
        gap_s = trace.longest_gap_s(*window)
        results.add(subject.name, f"worker killed: {GAP}", "ms", gap_s * 1e3, to="bare start", other=bare_s * 1e3)
        results.add(subject.name, "  worker killed: slowest request", "ms", trace.slowest_s(*window) * 1e3)
    results.add_failures(subject.name, "  kills: failed requests", trace.result)


def is_gone(pid: int) -> bool:
    """Whether no process has this id."""
    return not Path(f"/proc/{pid}").exists()


def boot(agent: Agent, subject: Subject) -> float:
    """Start the agent; seconds until the first answer."""
    started_s = time.monotonic()
    agent.start()
    first_answer(agent, subject)
    return time.monotonic() - started_s
