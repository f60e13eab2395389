"""Paths, headers and statuses of the HTTP face, asked of a real device; clients that misbehave are elsewhere."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from typing import Any

import numpy as np
import pytest

from tests.front.asking import BODY_BYTES_MAX, INFER, ask, infer_json, metric, row_of
from tests.front.conftest import NAN, RAISE, Device
from tests.harness.agent import wait_until

GOOD = infer_json()


def test_an_answer_carries_outputs_version_and_digest(device: Device) -> None:
    answer = ask(device.port, "POST", INFER, GOOD)
    assert answer.status == 200
    assert answer.headers["holdfast-digest"] == device.release.digest
    assert answer.headers["Content-Type"] == "application/json"
    assert (answer.json["model_name"], answer.json["model_version"]) == ("tiny", "2.0.0")
    (output,) = answer.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [1, 2])
    assert np.allclose(output["data"], device.release.answers[0].ravel(), rtol=1e-5)


def test_a_version_may_be_named(device: Device) -> None:
    assert ask(device.port, "POST", "/v2/models/tiny/versions/2.0.0/infer", GOOD).status == 200
    assert ask(device.port, "GET", "/v2/models/tiny/versions/2.0.0/ready").json == {"name": "tiny", "ready": True}
    assert ask(device.port, "GET", "/v2/models/tiny/versions/2.0.0").json["versions"] == ["2.0.0"]


def test_what_serves_can_be_asked(device: Device) -> None:
    assert ask(device.port, "GET", "/v2/health/live").json == {"live": True}
    assert ask(device.port, "GET", "/v2/health/ready").json == {"ready": True}
    assert ask(device.port, "GET", "/v2/models/tiny/ready").json == {"name": "tiny", "ready": True}
    server = ask(device.port, "GET", "/v2").json
    assert (server["name"], server["extensions"]) == ("holdfast", ["binary_tensor_data"])
    health = ask(device.port, "GET", "/health")
    assert health.status == 200
    tiny = health.json["models"]["tiny"]
    assert (health.json["healthy"], tiny["ready"], tiny["version"]) == (True, True, "2.0.0")
    assert tiny["digest"] == device.release.digest


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "headers"),
    [
        (400, "POST", INFER, b"", {}),
        (400, "POST", INFER, b"{", {}),
        (400, "POST", INFER, b'{"inputs":' + b"[" * 100_000, {}),
        (400, "POST", INFER, infer_json().replace(b"[1, 4]", b"[1000000000, 1000000000]"), {}),
        (400, "POST", INFER, GOOD + b"x", {"Inference-Header-Content-Length": str(len(GOOD))}),
        (400, "POST", INFER, GOOD, {"Inference-Header-Content-Length": "-1"}),
        (400, "POST", INFER, GOOD, {"Inference-Header-Content-Length": "1e2"}),
        (400, "POST", INFER, GOOD, {"Inference-Header-Content-Length": "9" * 30}),
        (400, "POST", INFER, GOOD, {"Content-Encoding": "gzip"}),
        (400, "POST", INFER, GOOD, {"Content-Encoding": "deflate"}),
        (400, "POST", INFER, gzip.compress(GOOD)[:-12], {"Content-Encoding": "gzip"}),
        (404, "POST", "/v2/models/other/infer", GOOD, {}),
        (404, "POST", "/v2/models/tiny/versions/9.9.9/infer", GOOD, {}),
        (404, "GET", "/v2/models/other", None, {}),
        (404, "GET", "/v2/models/other/ready", None, {}),
        (404, "GET", "/v2/models/tiny/versions/9.9.9/ready", None, {}),
        (404, "GET", "/v2/models/tiny/config", None, {}),
        (404, "GET", "/", None, {}),
        (405, "GET", INFER, None, {}),
        (405, "POST", "/health", b"", {}),
        (413, "POST", INFER, b" " * (BODY_BYTES_MAX + 1), {}),
        (413, "POST", INFER, gzip.compress(b" " * (BODY_BYTES_MAX + 1)), {"Content-Encoding": "gzip"}),
        (413, "POST", INFER, gzip.compress(b" " * 200_000_000, 1), {"Content-Encoding": "gzip"}),
        (415, "POST", INFER, GOOD, {"Content-Encoding": "br"}),
        (415, "POST", INFER, GOOD, {"Content-Encoding": "gzip, deflate"}),
        (417, "POST", INFER, GOOD, {"Expect": "wonders"}),
    ],
)
def test_each_refusal_has_its_status_and_one_line_of_text(
    device: Device, status: int, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> None:
    answer = ask(device.port, method, path, body, headers)
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    assert list(answer.json) == ["error"]
    assert answer.json["error"] == " ".join(answer.json["error"].split()) != ""
    assert ask(device.port, "POST", INFER, GOOD).status == 200


def test_a_wrong_method_is_told_the_right_one(device: Device) -> None:
    assert ask(device.port, "GET", INFER).headers["Allow"] == "POST"


def test_a_refusal_names_what_there_is(device: Device) -> None:
    assert "there are: tiny" in ask(device.port, "GET", "/v2/models/other").json["error"]
    assert "2.0.0 does" in ask(device.port, "GET", "/v2/models/tiny/versions/1").json["error"]


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"A" * 20_000 + b"\r\n"]
)
def test_bytes_that_are_no_http_get_an_error_in_the_same_form(device: Device, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", device.port), timeout=20) as client:
        client.sendall(junk)
        client.shutdown(socket.SHUT_WR) if junk.startswith(b"\x16") else None
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    if head:
        assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
        assert list(json.loads(body)) == ["error"]
    assert ask(device.port, "POST", INFER, GOOD).status == 200


def read_all(client: socket.socket) -> bytes:
    content = b""
    while part := client.recv(1 << 16):
        content += part
    return content


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_may_be_compressed(device: Device, encoding: str, pack: Any) -> None:
    answer = ask(device.port, "POST", INFER, pack(GOOD), {"Content-Encoding": encoding})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(("accepted", "unpack"), [("gzip", gzip.decompress), ("deflate, gzip;q=0.5", zlib.decompress)])
@pytest.mark.parametrize("rows", [200, 2000])
def test_a_large_answer_is_compressed_when_the_client_asks_for_it(
    device: Device, accepted: str, unpack: Any, rows: int
) -> None:
    body = infer_json(rows)
    plain = ask(device.port, "POST", INFER, body)
    packed = ask(device.port, "POST", INFER, body, {"Accept-Encoding": accepted})
    assert packed.headers["Content-Encoding"] == accepted.split(",")[0]
    assert int(packed.headers["Content-Length"]) == len(packed.body) < len(plain.body) / 2
    assert unpack(packed.body) == plain.body


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "br", ""])
def test_no_answer_is_compressed_against_the_clients_will(device: Device, accepted: str) -> None:
    answer = ask(device.port, "POST", INFER, infer_json(200), {"Accept-Encoding": accepted})
    assert answer.headers["Content-Encoding"] is None
    assert len(answer.json["outputs"][0]["data"]) == 400


def test_a_client_that_asks_whether_to_go_on_is_told_to(device: Device) -> None:
    assert ask(device.port, "POST", INFER, GOOD, {"Expect": "100-continue"}).status == 200


def test_a_body_may_come_in_chunks(device: Device) -> None:
    assert ask(device.port, "POST", INFER, iter([GOOD[:10], GOOD[10:]])).status == 200


def test_an_engine_that_raises_is_told_and_the_next_request_is_computed(device: Device) -> None:
    answer = ask(device.port, "POST", INFER, infer_json(first=RAISE))
    assert answer.status == 500
    assert "raises on purpose" in answer.json["error"]
    assert ask(device.port, "POST", INFER, GOOD).status == 200


def test_nan_is_answered_as_binary_data_and_refused_as_json(device: Device) -> None:
    answer = ask(device.port, "POST", INFER, infer_json(first=NAN))
    assert (answer.status, "binary_data" in answer.json["error"]) == (400, True)
    answer = ask(device.port, "POST", INFER, infer_json(first=NAN, parameters={"binary_data_output": True}))
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert np.isnan(np.frombuffer(answer.body[length:], "<f4")).all()


def test_the_counters_move_with_what_happens(device: Device) -> None:
    port = device.port

    def counts() -> list[float]:
        of = {"model": "tiny", "version": "2.0.0"}
        ok = metric(port, "holdfast_requests_total", status="200", **of)
        bad = metric(port, "holdfast_requests_total", status="400", **of)
        return [ok, bad, metric(port, "holdfast_request_seconds_count", model="tiny")]

    before = counts()
    ask(port, "POST", INFER, GOOD)
    ask(port, "POST", INFER, b"{")
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 2]
    assert metric(port, "holdfast_serving", model="tiny", digest=device.release.digest) == 1
    wait_until(lambda: metric(port, "holdfast_in_flight", model="tiny") == 0, "nothing is in flight")


def test_unknown_models_make_no_new_series(device: Device) -> None:
    ask(device.port, "POST", "/v2/models/made-up/infer", GOOD)
    assert b"made-up" not in ask(device.port, "GET", "/metrics").body


def test_one_connection_serves_many_requests(device: Device) -> None:
    request = b"POST %s HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n%s" % (INFER.encode(), len(GOOD), GOOD)
    with socket.create_connection(("127.0.0.1", device.port), timeout=20) as client:
        client.sendall(request * 20)
        received = b""
        while received.count(b'"model_version"') < 20:
            part = client.recv(1 << 16)
            assert part, "the connection was closed"
            received += part
    assert received.count(b"HTTP/1.1 200 OK") == 20


def test_rows_are_answered_in_their_order(device: Device) -> None:
    data = [value for first in (1.0, 2.0, 3.0) for value in row_of(first)]
    tensor = {"name": "x", "shape": [3, 4], "datatype": "FP32", "data": data}
    together = ask(device.port, "POST", INFER, json.dumps({"inputs": [tensor]}).encode()).json["outputs"][0]["data"]
    single = [
        ask(device.port, "POST", INFER, infer_json(first=first)).json["outputs"][0]["data"] for first in (1, 2, 3)
    ]
    assert np.allclose(together, np.ravel(single), rtol=1e-5)
