"""A client that never pauses and forgets nothing: each answer is compared with the reference of the digest that it
claims.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

Reference = Mapping[str, np.ndarray]  # digest -> outputs, shape (pictures, 1, outputs)


@dataclass(frozen=True, slots=True)
class Record:
    """One request: seconds since the client's start, how long it took, and what came back."""

    at_s: float
    took_s: float
    status: int
    digest: str
    version: str
    matches: bool


def infer_request(name: str, value: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Body and headers of one binary FP32 request."""
    raw = np.ascontiguousarray(value, dtype="<f4").tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": list(value.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


@dataclass
class Answer:
    """A parsed answer; output is None unless the status is 200."""

    status: int
    digest: str
    version: str
    output: np.ndarray | None
    text: str


def ask(connection: http.client.HTTPConnection, model: str, name: str, value: np.ndarray) -> Answer:
    """One inference. Raises OSError or http.client.HTTPException when the connection fails."""
    body, headers = infer_request(name, value)
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        return Answer(response.status, "", "", None, content[:300].decode(errors="replace"))
    length = int(response.headers["Inference-Header-Content-Length"])
    document: dict[str, Any] = json.loads(content[:length])
    output = np.frombuffer(content[length:], dtype="<f4")
    return Answer(200, response.headers["holdfast-digest"], document["model_version"], output, "")


@dataclass
class RecordingClient:
    """Sends rows of `inputs` (first axis), one after the other, until stopped. Thread-safe to read while it runs."""

    port: int
    model: str
    input_name: str
    inputs: np.ndarray
    references: Reference
    pause_s: float = 0.0
    rtol: float = 1e-4
    atol: float = 1e-4
    records: list[Record] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)
        self.started_s = time.monotonic()
        self.started_unix_s = time.time()

    def __enter__(self) -> RecordingClient:
        self.started_s, self.started_unix_s = time.monotonic(), time.time()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Finish the request that is under way, then end."""
        self._stop.set()
        self._thread.join(60)

    @property
    def mismatches(self) -> int:
        """Answers that are not what the claimed digest gives."""
        return sum(1 for record in list(self.records) if record.status == 200 and not record.matches)

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(1 for record in list(self.records) if record.status != 200)

    def versions(self) -> Counter[str]:
        """Answers by version."""
        return Counter(record.version for record in list(self.records) if record.status == 200)

    def now_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s

    def last_version(self) -> str:
        """The version of the newest answer."""
        return next((record.version for record in reversed(list(self.records)) if record.status == 200), "")

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        row = 0
        while not self._stop.is_set():
            row = (row + 1) % len(self.inputs)
            started = time.monotonic()
            try:
                answer = ask(connection, self.model, self.input_name, self.inputs[row : row + 1])
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
                answer = Answer(0, "", "", None, repr(error))
            self._note(started, row, answer)
            if self.pause_s:
                self._stop.wait(self.pause_s)
        connection.close()

    def _note(self, started: float, row: int, answer: Answer) -> None:
        matches = False
        if answer.output is not None:
            reference = self.references.get(answer.digest)
            matches = reference is not None and np.allclose(
                answer.output, reference[row].ravel(), rtol=self.rtol, atol=self.atol
            )
        else:
            self.failures.append(f"{started - self.started_s:.3f} s: {answer.status} {answer.text}")
        took_s = time.monotonic() - started
        self.records.append(
            Record(started - self.started_s, took_s, answer.status, answer.digest, answer.version, matches)
        )
