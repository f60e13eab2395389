"""How tests ask a front: one HTTP request, with everything that came back. Nothing is asserted here."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.harness.releases import INPUTS

QUEUE_MAX = 8
BODY_BYTES_MAX = 256 << 10
INFER = "/v2/models/tiny/infer"


@dataclass
class Answer:
    """What came back; header names are case-insensitive."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def row_of(first: float | None = None) -> list[float]:
    """One input; first: its first number, which is what the model's faults look at."""
    row = [float(value) for value in INPUTS[0]]
    return row if first is None else [first, *row[1:]]


def infer_json(rows: int = 1, first: float | None = None, **fields: Any) -> bytes:
    """The body of an inference of that many equal rows."""
    tensor = {"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": row_of(first) * rows}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def raw_request(body: bytes, path: str = INFER, **headers: str) -> bytes:
    """The bytes of a POST, for tests that speak to the socket."""
    lines = {"Host": "device", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def metric(port: int, name: str, **labels: str) -> float:
    """The sum of the samples of GET /metrics with this name and these labels."""
    text = ask(port, "GET", "/metrics").body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
    )
