"""The load generator, a process of its own: each connection sends, waits for the answer, and sends again.

What the numbers mean is said elsewhere. It does as little as it can per answer, so that the server is what is
measured; `busy_ratio` tells how much of a core it needed. One job in JSON as its argument, one line of JSON at the end.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

WARM_UP_RATIO = 0.15  # of the time: not counted
RECONNECT_S = 0.002
DIGEST = b"holdfast-digest: "
DIGEST_CHARACTERS = 64


@dataclass
class Job:
    """seconds: how long, 0 = until the standard input is readable.

    trace_file: where the moment of each answer goes, then what each took, as float64; "" = not kept.
    """

    port: int
    request_file: str
    concurrency: int
    seconds: float = 0.0
    trace_file: str = ""


@dataclass
class Tally:
    """What came back, over all connections. Times are those of the machine's monotonic clock, in seconds."""

    trace: bool
    done_s: array[float] = field(default_factory=lambda: array("d"))
    took_s: array[float] = field(default_factory=lambda: array("d"))
    failures: list[tuple[float, str]] = field(default_factory=list)
    digests: list[tuple[float, str]] = field(default_factory=list)
    digest: bytes = b""

    def note_digest(self, now_s: float, head: bytes) -> None:
        """Keep the moment at which another snapshot answers."""
        at = head.find(DIGEST) + len(DIGEST)
        digest = head[at : at + DIGEST_CHARACTERS]
        if digest != self.digest:
            self.digest = digest
            self.digests.append((now_s, digest.decode("ascii", "replace")))


class Connection(asyncio.Protocol):
    """One connection; a new one takes its place when the server closes it."""

    def __init__(self, request: bytes, tally: Tally, job: Job) -> None:
        self._request, self._tally, self._job = request, tally, job
        self._whole = -1  # length of the last answer: most are as long
        self._missing = -1  # bytes of the present answer that are still to come; -1: its head is not complete
        self._head = b""
        self._sent_s = 0.0
        self.stopped = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_s = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Mostly a whole answer, as long as the last one."""
        if len(data) == self._whole and not self._head:
            self._answered(data)
            return
        if self._missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            self._whole = end + content_length(self._head[:end])
            self._missing = self._whole - len(self._head)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            head, self._head, self._missing = self._head, b"", -1
            self._answered(head)

    def _answered(self, head: bytes) -> None:
        now_s = time.monotonic()
        tally = self._tally
        if head.startswith(b"HTTP/1.1 200"):
            tally.done_s.append(now_s)
            tally.took_s.append(now_s - self._sent_s)
            if tally.trace:
                tally.note_digest(now_s, head)
        else:
            tally.failures.append((now_s, head[:300].decode("latin-1")))
        if not self.stopped:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """A request without an answer is a failure."""
        if not self.stopped:
            self._tally.failures.append((time.monotonic(), f"connection lost: {exc}"))
            loop = asyncio.get_running_loop()
            loop.call_later(RECONNECT_S, lambda: loop.create_task(self._again()))

    async def _again(self) -> None:
        self._head, self._missing = b"", -1
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._job.port)
        except OSError as error:
            self.connection_lost(error)

    def stop(self) -> None:
        """Nothing counts from now on."""
        self.stopped = True
        self._transport.abort()


def itself(connection: Connection) -> Connection:
    """What a protocol factory gives when the protocol is there already."""
    return connection


def content_length(head: bytes) -> int:
    """Of an HTTP answer; 0 when it names none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def generate(job: Job) -> dict[str, Any]:
    """Load the server as the job says; the counts."""
    loop = asyncio.get_running_loop()
    request, tally = Path(job.request_file).read_bytes(), Tally(bool(job.trace_file))
    connections = [Connection(request, tally, job) for _ in range(job.concurrency)]
    for connection in connections:
        await loop.create_connection(functools.partial(itself, connection), "127.0.0.1", job.port)
    if job.seconds:
        await asyncio.sleep(job.seconds * WARM_UP_RATIO)
        tally.done_s, tally.took_s = array("d"), array("d")
    else:
        print(json.dumps({"begun": True}), flush=True)
    started_s, busy_s = time.monotonic(), time.process_time()
    if job.seconds:
        await asyncio.sleep(job.seconds * (1 - WARM_UP_RATIO))
    else:
        ended = asyncio.Event()
        loop.add_reader(sys.stdin, ended.set)
        await ended.wait()
    ended_s, busy_s = time.monotonic(), time.process_time() - busy_s
    for connection in connections:
        connection.stop()
    return summary(tally, job.trace_file, started_s, ended_s, busy_s)


def summary(tally: Tally, trace_file: str, started_s: float, ended_s: float, busy_s: float) -> dict[str, Any]:
    """Counts, percentiles, and where a trace is wanted the changes of digest; its moments go to the file."""
    ordered = sorted(tally.took_s)
    document: dict[str, Any] = {
        "answers": len(ordered),
        "per_s": len(ordered) / (ended_s - started_s),
        "p50_s": percentile(ordered, 50),
        "p99_s": percentile(ordered, 99),
        "failed": len(tally.failures),
        "failures": tally.failures[:5],
        "busy_ratio": busy_s / (ended_s - started_s),
    }
    if trace_file:
        document["digests"] = tally.digests
        with Path(trace_file).open("wb") as stream:
            tally.done_s.tofile(stream)
            tally.took_s.tofile(stream)
    return document


def percentile(ordered: list[float], percent: int) -> float:
    """Of sorted values; 0 when there are none."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


if __name__ == "__main__":
    print(json.dumps(uvloop.run(generate(Job(**json.loads(sys.argv[1]))))), flush=True)
