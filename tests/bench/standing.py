"""What the agent costs by being there: cold boot to the first answer, and memory, against the bare engine.

Cold means new processes; files are in the page cache for both sides.
"""

from __future__ import annotations

import time

from tests.bench.children import bare_engine
from tests.bench.device import Subject, pss_bytes
from tests.bench.figures import Results
from tests.harness.agent import Agent

MEBIBYTE = 1 << 20


def bare_boot(results: Results, subject: Subject) -> tuple[float, float]:
    """Start of a bare process to its first output, in seconds, and its memory in bytes."""
    with bare_engine(subject.folder) as bare:
        seen = bare.document()
        took_s = time.monotonic() - bare.started_s
    results.add(subject.name, "bare: import + load + first run", "s", took_s)
    return took_s, float(seen["pss_bytes"])


def memory(results: Results, subject: Subject, agent: Agent, bare_bytes: float) -> None:
    """PSS of every process of the agent, in steady state."""
    found = agent.status()["processes"]
    pids = {"runtime": [found["runtime"]], "front": [found["front"]]}
    pids |= {"fork server": [entry["pid"] for entry in found["zygotes"]]}
    pids |= {"worker and spare": [entry["pid"] for entry in found["workers"]]}
    sizes = {name: sum(map(pss_bytes, group)) / MEBIBYTE for name, group in pids.items()}
    bare = results.add(subject.name, "PSS of the bare process", "MiB", bare_bytes / MEBIBYTE)
    for name, size in [*sizes.items(), ("all", sum(sizes.values()))]:
        results.add(subject.name, f"PSS of {name}", "MiB", size, to="bare process", other=bare)
