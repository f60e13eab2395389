"""Processes that stand beside the agent during a run: bare engine, echo server, load generator; all are ended.

What they do is in `bare`, `echo` and `load`.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tests.bench.load import Job
from tests.harness.agent import PADDLE_PYTHON, ROOT

READ_BYTES = 1 << 16


class Child:
    """`python -m MODULE ARGUMENTS` that speaks lines: JSON out. Use with `with`."""

    def __init__(self, module: str, *arguments: str, python: str = sys.executable) -> None:
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        self._name = module
        self._read = b""

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def tell(self, line: str) -> None:
        """One line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def document(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Its next line. Raises AssertionError when it ends or says nothing within timeout_s."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._read:  # ends with the line, the process or the time
                assert selector.select(deadline_s - time.monotonic()), f"{self._name}: nothing within {timeout_s:g} s"
                data = os.read(descriptor, READ_BYTES)
                assert data, f"{self._name} ended with {self._process.wait()}"
                self._read += data
        line, _, self._read = self._read.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document


def bare_engine(folder: Path) -> Child:
    """The bare engine with this model folder; its first line comes after its first run."""
    return Child("tests.bench.bare", str(folder), python=PADDLE_PYTHON)


def run_load(job: Job) -> dict[str, Any]:
    """Load a server for the job's seconds; what came back."""
    with Child("tests.bench.load", json.dumps(asdict(job))) as generator:
        return generator.document(job.seconds + 60.0)


class Trace:
    """Load in the background that keeps the time of every answer. Use with `with`; `result` is there afterwards."""

    def __init__(self, port: int, request_file: Path, concurrency: int) -> None:
        self._file = request_file.with_suffix(".trace")
        job = Job(port, str(request_file), concurrency, trace_file=str(self._file))
        self._generator = Child("tests.bench.load", json.dumps(asdict(job)))
        self.result: dict[str, Any] = {}
        self._done_s = self._took_s = np.empty(0)

    def __enter__(self) -> Trace:
        self._generator.document()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._generator:
            if error is None:
                self._generator.tell("end")
                self.result = self._generator.document()
                kept = np.fromfile(self._file, dtype="<f8")
                assert len(kept) == 2 * self.result["answers"], "the trace is not whole"
                self._done_s, self._took_s = kept.reshape(2, -1)

    def longest_gap_s(self, begin_s: float, end_s: float) -> float:
        """The longest time without any answer between two moments; a gap that ends after end_s counts whole."""
        first, last = np.searchsorted(self._done_s, (begin_s, end_s))
        assert last < len(self._done_s), "no answer came after the end"
        return float(np.diff(self._done_s[first : last + 1], prepend=begin_s).max())

    def slowest_s(self, begin_s: float, end_s: float) -> float:
        """The slowest request that was answered between two moments."""
        return float(self._took_s[(self._done_s >= begin_s) & (self._done_s <= end_s)].max(initial=0.0))

    def first_other_s(self, digest: str, after_s: float) -> float:
        """When this digest answered first, after a moment."""
        found = [at_s for at_s, seen in self.result["digests"] if seen == digest and at_s > after_s]
        assert found, f"{digest[:12]} never answered"
        return float(found[0])
