"""Requests per second and latency through HTTP, against the bare engine and a bare HTTP server, round by round.

Each round measures all of them, in turns, so that a slow moment of the machine hits both sides of a ratio.
"""

from __future__ import annotations

from tests.bench.children import Child, bare_engine, run_load
from tests.bench.device import Subject
from tests.bench.figures import Results
from tests.bench.load import Job

CONCURRENCIES = (1, 8, 32)
BARE = "bare engine, copies in and out"


def measure(results: Results, subject: Subject, port: int, *, rounds: int, seconds: float) -> None:
    """All figures of one model; the agent listens at `port`."""
    with bare_engine(subject.folder) as bare, Child("tests.bench.echo") as echo:
        results.engine_versions = bare.document()["versions"]
        echo_port = echo.document()["port"]
        for number in range(rounds):
            order = CONCURRENCIES if number % 2 == 0 else CONCURRENCIES[::-1]
            bare_per_s = _bare(results, subject, bare, seconds)
            for concurrency in order:
                _both(results, subject, port, echo_port, concurrency, seconds, bare_per_s)


def _bare(results: Results, subject: Subject, bare: Child, seconds: float) -> float:
    bare.tell(str(seconds))
    seen = bare.document(seconds * 2 + 60)
    per_s: float = seen["runs_per_s"]
    results.add(subject.name, BARE, "runs/s", per_s)
    only_run = seen["predictor_runs_per_s"]
    results.add(subject.name, "bare predictor.run() alone", "runs/s", only_run, to="with copies", other=per_s)
    return per_s


def _both(
    results: Results, subject: Subject, port: int, echo_port: int, concurrency: int, seconds: float, bare_per_s: float
) -> None:
    """The agent, then the echo, with the same load."""
    seen = {
        name: run_load(Job(to_port, str(subject.request_file), concurrency, seconds))
        for name, to_port in (("agent", port), ("echo", echo_port))
    }
    for name, got in seen.items():
        assert got["failed"] == 0 and got["answers"], f"{name}, c={concurrency}: {got['failures']}"
    agent, echo = seen["agent"], seen["echo"]
    label = f"c={concurrency}"
    model = subject.name
    results.add(model, f"requests, {label}", "/s", agent["per_s"], to="bare engine", other=bare_per_s)
    results.add(model, f"  latency p50, {label}", "ms", agent["p50_s"] * 1e3, to="echo", other=echo["p50_s"] * 1e3)
    results.add(model, f"  latency p99, {label}", "ms", agent["p99_s"] * 1e3, to="echo", other=echo["p99_s"] * 1e3)
    results.add(model, f"  echo of the same body, {label}", "/s", echo["per_s"], to="the agent", other=agent["per_s"])
    if concurrency == CONCURRENCIES[-1]:
        results.add(model, "load generator's share of a core, agent", "%", agent["busy_ratio"] * 100)
        results.add(model, "load generator's share of a core, echo", "%", echo["busy_ratio"] * 100)
