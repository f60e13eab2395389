"""Workers that break the agreement, seen by the dispatcher: left, reached again, never believed. The worker here is a
peer of the real wire format that answers as a test tells it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from edge_agent.front.control import ControlServer
from edge_agent.front.dispatch import Bounds, Dispatcher
from edge_agent.front.errors import ComputeFailed, NotServing
from edge_agent.front.metrics import FrontMetrics
from edge_agent.front.routes import ModelRoute, Routes, WorkerAddress
from edge_agent.runtime.channel import Channel, connect
from edge_agent.worker import wire
from tests.front.bodies import parse, route, tensor

Reply = Callable[[wire.DataRequest], bytes]
ECHO = wire.Tensor(0, "FP32", (1, 2), 0, 8)  # the input lies there: it comes back as the output


def reply(*outputs: wire.Tensor, code: int = wire.OK) -> Reply:
    return lambda request: wire.encode_reply(wire.DataReply(request.request_id, code, outputs, "said so"))


class Peer:
    """A worker that listens at `path` and takes one of `replies` for each request; the last one stays."""

    def __init__(self, path: Path, *replies: Reply, digest: str = "d") -> None:
        self.path, self.replies, self.digest, self.hellos = path, list(replies), digest, 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._serve, self.path)
        yield
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hellos += 1
        list(wire.FrameDecoder().feed(await reader.read(1 << 16)))
        writer.write(wire.encode_frame({"ok": True, "reply": 0, "digest": self.digest}))
        decoder = wire.DataDecoder()
        while data := await reader.read(1 << 16):
            for frame in decoder.feed(data):
                take = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                writer.write(take(wire.decode_request(frame)))
        writer.close()


def routed(*peers: Peer) -> Routes:
    workers = tuple(WorkerAddress(peer.path.name, str(peer.path)) for peer in peers)
    plain = route()
    served = ModelRoute("serving", None, "1.0.0", "d", plain.inputs, plain.outputs, workers)
    return Routes(1, {"m": served})


def play(scene: Callable[[Dispatcher], Awaitable[Any]]) -> list[dict[str, Any]]:
    """Run a scene with a dispatcher whose time passes; gives what the runtime was told."""
    told: list[dict[str, Any]] = []

    async def act() -> None:
        dispatcher = Dispatcher(Bounds(1.0, 5.0, 4, 1 << 16), FrontMetrics(), told.append)
        time_passes = asyncio.create_task(dispatcher.run())
        try:
            await asyncio.wait_for(scene(dispatcher), 20)
        finally:
            dispatcher.end()
            time_passes.cancel()

    asyncio.run(act())
    return told


async def ask(dispatcher: Dispatcher) -> Any:
    body, _, _ = await dispatcher.infer("m", dispatcher.routes.models["m"], parse(tensor()))
    return json.loads(body)["outputs"][0]["data"]


LIES = {
    "an answer to no request": lambda request: wire.encode_reply(wire.DataReply(999, wire.OK, (ECHO,), "")),
    "no frame": lambda _: b"\xff" * 64,
    "an output outside its slot": reply(wire.Tensor(0, "FP32", (1, 2), 1 << 40, 8)),
    "bytes that do not fit the shape": reply(wire.Tensor(0, "FP32", (1, 2), 0, 12)),
    "a negative shape": reply(wire.Tensor(0, "FP32", (-1, -2), 0, 8)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_breaks_the_agreement_is_left_and_another_one_answers(short_folder: Path, lie: str) -> None:
    async def scene(dispatcher: Dispatcher) -> None:
        liar, honest = Peer(short_folder / "liar", LIES[lie]), Peer(short_folder / "honest", reply(ECHO))
        async with liar.listening(), honest.listening():
            await dispatcher.set_routes(routed(liar, honest))
            assert await ask(dispatcher) == [1.0, 2.0]

    (told,) = play(scene)
    assert (told["event"], told["worker_id"], told["digest"]) == ("worker_lost", "liar", "d")


def test_a_worker_that_was_left_is_reached_again(short_folder: Path) -> None:
    async def scene(dispatcher: Dispatcher) -> None:
        peer = Peer(short_folder / "w", LIES["no frame"], reply(ECHO))
        async with peer.listening():
            await dispatcher.set_routes(routed(peer))
            assert await ask(dispatcher) == [1.0, 2.0]
            assert peer.hellos == 2

    play(scene)


def test_a_worker_that_is_being_reached_is_not_reached_a_second_time(short_folder: Path) -> None:
    async def scene(dispatcher: Dispatcher) -> None:
        peer = Peer(short_folder / "w", reply(ECHO))
        async with peer.listening():
            following = asyncio.create_task(dispatcher.set_routes(routed(peer)))
            await asyncio.sleep(0)  # it has begun, and waits for the worker
            dispatcher.reach_again()
            await following
            assert await ask(dispatcher) == [1.0, 2.0]
            assert peer.hellos == 1

    play(scene)


def test_a_worker_that_comes_late_is_reached_and_its_request_was_held(short_folder: Path) -> None:
    async def scene(dispatcher: Dispatcher) -> None:
        peer = Peer(short_folder / "w", reply(ECHO))
        await dispatcher.set_routes(routed(peer))
        assert not dispatcher.ready("m")
        asking = asyncio.create_task(ask(dispatcher))
        async with peer.listening():
            assert await asking == [1.0, 2.0]
            assert dispatcher.ready("m")

    play(scene)


def test_a_ping_is_answered_while_routes_wait_for_a_busy_worker(short_folder: Path) -> None:
    """Else a worker that computes for long would make the front look hung."""

    async def scene(dispatcher: Dispatcher) -> None:
        busy = asyncio.Event()

        async def compute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            busy.set()
            await reader.read()  # says nothing until it is left
            writer.close()

        async with front_controlled_by(dispatcher, short_folder / "front") as runtime:
            worker = await asyncio.start_unix_server(compute, short_folder / "w")
            document = {"state": "serving", "version": "1.0.0", "digest": "d", "inputs": [], "outputs": [],
                        "workers": [{"worker_id": "w", "socket": str(short_folder / "w")}]}  # fmt: skip
            following = asyncio.create_task(
                runtime.request("routes", timeout_s=20, sequence=1, models={"m": document}, gauges={})
            )
            await busy.wait()
            await runtime.request("ping", timeout_s=20)
            assert not following.done()
            following.cancel()
            worker.close()

    play(scene)


@contextlib.asynccontextmanager
async def front_controlled_by(dispatcher: Dispatcher, path: Path) -> AsyncIterator[Channel]:
    """The front's control socket around this dispatcher, and the runtime's end of it after its hello."""
    with socket.socket() as listener:
        control = ControlServer(listener, FrontMetrics(), 60.0)
        control.dispatcher = dispatcher
        await control.start(path)
        runtime = await connect(path, lambda _h: None, lambda: None, timeout_s=20)
        try:
            await runtime.request("hello", timeout_s=20, role="control", generation=1)
            yield runtime
        finally:
            runtime.close()
            await control.end(20)


def test_the_control_socket_outlives_a_garbage_collection(short_folder: Path) -> None:
    """Else a front that serves on could not be taken back by the next runtime, which would open another port."""

    async def scene() -> None:
        with socket.socket() as listener:
            control = ControlServer(listener, FrontMetrics(), 60.0)
            await control.start(short_folder / "front.sock")
            gc.collect()
            runtime = await connect(short_folder / "front.sock", lambda _h: None, lambda: None, timeout_s=20)
            runtime.close()
            await control.end(20)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (reply(), "other outputs than the manifest"),
        (reply(ECHO, ECHO), "other outputs than the manifest"),
        (reply(wire.Tensor(0, "INT64", (1,), 0, 8)), "other outputs than the manifest"),
        (reply(code=wire.ENGINE_ERROR), "said so"),
        (reply(code=wire.OUTPUT_TOO_LARGE), "said so"),
    ],
)
def test_an_answer_that_is_none_fails_the_request_alone(short_folder: Path, said: Reply, words: str) -> None:
    async def scene(dispatcher: Dispatcher) -> None:
        peer = Peer(short_folder / "w", said, reply(ECHO))
        async with peer.listening():
            await dispatcher.set_routes(routed(peer))
            with pytest.raises(ComputeFailed, match=words):
                await ask(dispatcher)
            assert await ask(dispatcher) == [1.0, 2.0]
            assert peer.hellos == 1

    assert play(scene) == []


def test_a_worker_with_another_snapshot_gets_no_request(short_folder: Path) -> None:
    async def scene(dispatcher: Dispatcher) -> None:
        peer = Peer(short_folder / "w", reply(ECHO), digest="other")
        async with peer.listening():
            await dispatcher.set_routes(routed(peer))
            with pytest.raises(NotServing):
                await ask(dispatcher)

    play(scene)


def test_idle_is_told_once_nobody_waits_for_an_answer(short_folder: Path) -> None:
    async def scene(dispatcher: Dispatcher) -> None:
        await dispatcher.idle()
        await dispatcher.set_routes(routed())
        asking = asyncio.create_task(ask(dispatcher))
        idle = asyncio.create_task(dispatcher.idle())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(idle), 0.1)
        asking.cancel()
        await idle

    play(scene)
