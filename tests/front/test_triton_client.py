"""The stock client of Triton, unchanged, against a real device: everything that it offers for serving works."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.front.asking import metric
from tests.front.conftest import RAISE, Device
from tests.harness.releases import INPUTS


@pytest.fixture
def client(device: Device) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{device.port}", concurrency=4) as made:
        yield made


def input_of(rows: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


def wanted(device: Device, rows: slice) -> np.ndarray:
    return device.release.answers[rows, 0]


def matches(result: triton.InferResult, expected: np.ndarray) -> bool:
    return np.allclose(result.as_numpy("y"), expected, rtol=1e-5, atol=1e-5)


def test_it_sees_a_live_and_ready_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "2.0.0")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("tiny", "9.9.9")


def test_it_reads_the_metadata(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata()["name"] == "holdfast"
    metadata = client.get_model_metadata("tiny")
    assert (metadata["name"], metadata["versions"]) == ("tiny", ["2.0.0"])
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("asked", ["unnamed", "binary", "json"])
def test_it_infers_with_json_and_with_binary_data(
    client: triton.InferenceServerClient, device: Device, binary_in: bool, asked: str
) -> None:
    outputs = None if asked == "unnamed" else [triton.InferRequestedOutput("y", binary_data=asked == "binary")]
    result = client.infer("tiny", [input_of(INPUTS[:3], binary=binary_in)], outputs=outputs)
    assert matches(result, wanted(device, slice(3)))
    assert result.get_response()["model_version"] == "2.0.0"
    assert result.get_output("y")["shape"] == [3, 2]


def test_the_request_id_comes_back_and_is_left_out_when_there_is_none(client: triton.InferenceServerClient) -> None:
    assert client.infer("tiny", [input_of(INPUTS[:1])], request_id="r-7").get_response()["id"] == "r-7"
    assert "id" not in client.infer("tiny", [input_of(INPUTS[:1])]).get_response()


@pytest.mark.parametrize("out", ["gzip", "deflate", None])
@pytest.mark.parametrize("into", ["gzip", "deflate", None])
@pytest.mark.parametrize("binary", [True, False])
def test_it_compresses_requests_and_answers(
    client: triton.InferenceServerClient, device: Device, into: str | None, out: str | None, binary: bool
) -> None:
    rows = np.repeat(INPUTS[:5], 40, axis=0)
    result = client.infer(
        "tiny",
        [input_of(rows, binary=binary)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=into,
        response_compression_algorithm=out,
    )
    assert matches(result, np.repeat(wanted(device, slice(5)), 40, axis=0))


def test_it_can_read_each_error(client: triton.InferenceServerClient) -> None:
    raising = INPUTS[:1].copy()
    raising[0, 0] = RAISE
    cases = [
        ("400", "no input 'z'", lambda: client.infer("tiny", [triton.InferInput("z", [1, 4], "FP32")])),
        ("400", "the model wants [-1, 4]", lambda: client.infer("tiny", [input_of(INPUTS[:1, :3].copy())])),
        ("404", "no model 'other'", lambda: client.infer("other", [input_of(INPUTS[:1])])),
        ("404", "version", lambda: client.get_model_metadata("tiny", "9")),
        ("404", "Not Found", lambda: client.get_model_config("tiny")),
        ("500", "raises on purpose", lambda: client.infer("tiny", [input_of(raising)])),
    ]
    for status, text, call in cases:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == status
        assert text in caught.value.message()


def test_its_async_requests_are_all_answered(client: triton.InferenceServerClient, device: Device) -> None:
    asked = [client.async_infer("tiny", [input_of(INPUTS[row : row + 1])]) for row in range(8)]
    for row, request in enumerate(asked):
        assert matches(request.get_result(), wanted(device, slice(row, row + 1)))


def test_many_clients_at_once_get_each_their_own_answer(device: Device) -> None:
    def ask_rows(first: int) -> bool:
        with triton.InferenceServerClient(f"127.0.0.1:{device.port}") as own:
            rows = [(first + step) % len(INPUTS) for step in range(25)]
            answers = [(row, own.infer("tiny", [input_of(INPUTS[row : row + 1])])) for row in rows]
        return all(matches(answer, wanted(device, slice(row, row + 1))) for row, answer in answers)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask_rows, range(6)))
    assert metric(device.port, "holdfast_workers_lost_total") == 0, "no link to a worker broke on the way"


def test_its_asyncio_client_works_too(device: Device) -> None:
    async def ask_all() -> list[triton.InferResult]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{device.port}") as client:
            assert await client.is_server_ready()
            calls = (client.infer("tiny", [input_of(INPUTS[row : row + 1])]) for row in range(8))
            return list(await asyncio.gather(*calls))

    for row, result in enumerate(asyncio.run(ask_all())):
        assert matches(result, wanted(device, slice(row, row + 1)))
