"""Clients that are slow, rude, too many or gone: they harm themselves alone. The device is real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web

from edge_agent.front.connections import ConnectionServer
from tests.front.asking import BODY_BYTES_MAX, INFER, QUEUE_MAX, Answer, ask, infer_json, metric, raw_request
from tests.front.conftest import SLOW, Device
from tests.harness.agent import wait_until

GOOD = infer_json()


@pytest.fixture
def line(device: Device) -> Iterator[socket.socket]:
    """A connection on which a test may do as it likes."""
    with socket.create_connection(("127.0.0.1", device.port), timeout=20) as made:
        yield made


def until_closed(line: socket.socket) -> bytes:
    """Everything that the device sends until it closes the connection."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(1 << 16):
            content += part
    return content


def works(device: Device) -> bool:
    return ask(device.port, "POST", INFER, GOOD).status == 200


def is_idle(device: Device) -> bool:
    return metric(device.port, "holdfast_in_flight", model="tiny") == 0


def test_a_body_that_trickles_in_is_given_up(device: Device, line: socket.socket) -> None:
    line.sendall(raw_request(GOOD)[:-1])
    assert works(device), "nobody else waits for it"
    head, _, body = line.recv(1000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert "did not arrive" in json.loads(body)["error"]


def test_a_head_that_trickles_in_holds_up_nobody(device: Device, line: socket.socket) -> None:
    request = raw_request(GOOD)
    for byte in request[:40]:
        line.sendall(bytes([byte]))
    assert works(device)
    line.sendall(request[40:])
    assert line.recv(100).startswith(b"HTTP/1.1 200"), "slow is not wrong"


def test_a_client_that_closes_its_half_is_let_go(device: Device, line: socket.socket) -> None:
    line.sendall(raw_request(infer_json(first=SLOW)))
    line.shutdown(socket.SHUT_WR)
    until_closed(line)
    assert works(device)
    wait_until(lambda: is_idle(device), "its request has left the worker")


@pytest.mark.parametrize("sent", [1, 60, 200, 10_000])
def test_a_client_that_leaves_at_any_point_does_no_harm(device: Device, sent: int) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", device.port), timeout=20) as line:
            line.sendall(raw_request(infer_json(first=SLOW))[:sent])
    assert works(device)
    wait_until(lambda: is_idle(device), "their requests have left the worker")


def test_requests_whose_clients_left_are_not_computed(device: Device) -> None:
    computing = socket.create_connection(("127.0.0.1", device.port), timeout=20)
    waiting = [socket.create_connection(("127.0.0.1", device.port), timeout=20) for _ in range(QUEUE_MAX)]
    for line in (computing, *waiting):
        line.sendall(raw_request(infer_json(first=SLOW)))
    wait_until(lambda: metric(device.port, "holdfast_queue_length", model="tiny") >= 2, "they wait")
    before = metric(device.port, "holdfast_requests_total", model="tiny", status="499")
    for line in (computing, *waiting):
        line.close()
    wait_until(lambda: is_idle(device), "nothing is left")
    wait_until(
        lambda: metric(device.port, "holdfast_requests_total", model="tiny", status="499") >= before + 2, "counted"
    )
    assert works(device)


def test_a_body_over_the_bound_is_refused_before_it_is_sent(line: socket.socket) -> None:
    line.sendall(raw_request(b"", **{"Content-Length": str(10 << 30)}))
    assert line.recv(1000).startswith(b"HTTP/1.1 413")


def test_who_asks_first_is_spared_the_upload(line: socket.socket) -> None:
    line.sendall(raw_request(b"", **{"Content-Length": str(BODY_BYTES_MAX + 1), "Expect": "100-continue"}))
    assert line.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_body_without_an_end_is_refused_and_its_sender_cut_off(device: Device, line: socket.socket) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: device\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    line.sendall(head)
    with contextlib.suppress(ConnectionError):
        while True:  # ends when the device closes the connection
            line.sendall(chunk)
    assert works(device)


def test_overload_is_refused_early_and_the_rest_is_answered(device: Device) -> None:
    slow = infer_json(first=SLOW)
    lost = metric(device.port, "holdfast_workers_lost_total")

    def one(_: int) -> Answer:
        return ask(device.port, "POST", INFER, slow)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(one, range(24)))
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {200, 503}
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    assert f"{QUEUE_MAX} requests are waiting" in refused[0].json["error"]
    assert len(answers) - len(refused) >= QUEUE_MAX
    assert metric(device.port, "holdfast_workers_lost_total") == lost
    assert works(device)


def test_a_flood_of_idle_connections_leaves_the_device_serving(device: Device) -> None:
    with contextlib.ExitStack() as lines:
        for _ in range(300):
            lines.enter_context(socket.create_connection(("127.0.0.1", device.port), timeout=20))
        assert works(device)


def test_random_bytes_leave_the_device_serving(device: Device) -> None:
    chance = random.Random(11)
    whole = raw_request(GOOD)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with socket.create_connection(("127.0.0.1", device.port), timeout=20) as line:
            line.sendall(damaged)
            line.shutdown(socket.SHUT_WR)
            first = until_closed(line)[:12]
        assert first[:9] in (b"", b"HTTP/1.1 ", b"HTTP/1.0 ")
        assert first[9:] in (b"", b"200", b"400", b"404", b"405", b"408", b"413", b"415", b"417")
    assert works(device)


# ---- the bound on connections, with a small number


async def hello(_: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


def test_one_connection_too_many_closes_the_one_that_was_idle_longest() -> None:
    async def scene() -> None:
        app = web.Application()
        app.router.add_get("/", hello)
        runner = web.AppRunner(app)
        await runner.setup()
        assert runner.server is not None
        server = ConnectionServer(runner.server, 3)
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        oldest, second, third = lines
        assert await says_hello(*oldest), "now the second is idle longest"
        newcomer = await asyncio.open_connection("127.0.0.1", port)
        assert await says_hello(*newcomer)
        assert await second[0].read() == b""
        assert await says_hello(*oldest)
        assert await says_hello(*third)
        for _, writer in (*lines, newcomer):
            writer.close()
        listening.close()
        await server.shutdown(1.0)
        await runner.cleanup()

    asyncio.run(scene())


async def says_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"GET / HTTP/1.1\r\nHost: d\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200") and await reader.readexactly(5) == b"hello"
