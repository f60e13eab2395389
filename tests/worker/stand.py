"""A test stand: the real fork server of one engine, its workers, the runtime's channel and loader, a front's data line.

What the models are is `subjects`'; what is asserted is the tests'.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import secrets
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from cloud_sync.publish.model_folder import hash_file, read_model_folder
from edge_agent.config import Config, EngineSettings, Limits, ModelSettings
from edge_agent.contract.manifest import encode_manifest
from edge_agent.runtime import loading
from edge_agent.runtime.channel import Channel, Header, connect, connect_when_up
from edge_agent.runtime.claim import Claim
from edge_agent.runtime.process import ProcessHandle, start
from edge_agent.runtime.zygotes import Zygote, Zygotes
from edge_agent.store.memfd import SealedFile
from edge_agent.worker import wire
from tests.harness.agent import ROOT, ShortFolder

T = TypeVar("T")

WORKER_MAIN = ROOT / "edge_agent" / "worker" / "__main__.py"
WAIT_S = 30.0  # for anything that has to come; reached only when a test fails
SLOTS, SLOT_BYTES = 2, 1 << 16
MEMORY_BYTES = 512 << 20  # what a model may add to the address space of its worker


class Stand:
    """One engine in one interpreter. Use with `with`: whatever it started is ended by its id."""

    def __init__(self, engine: str, python: str, *, memory_bytes: int = MEMORY_BYTES, orphan_s: float = 20.0) -> None:
        self.engine = engine
        self.exits: dict[str, tuple[int | None, int | None]] = {}  # worker id -> exit code, signal
        self._config = Config(
            state_dir="",
            models={"m": ModelSettings()},
            trusted_root="",
            engines={engine: EngineSettings(python=python)},
            limits=Limits(worker_memory_bytes=memory_bytes, orphan_s=orphan_s),
        )
        self._folder = ShortFolder()
        self._told = asyncio.Event()
        self._runner = asyncio.Runner()
        self._workers: list[Worker] = []
        self._zygotes: list[Zygote] = []
        self._processes: list[ProcessHandle] = []

    def __enter__(self) -> Stand:
        self.run_dir = self._folder.__enter__()
        self.zygotes = self.new_runtime(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_workers()
        self.run(self._end_zygotes())
        self._runner.close()
        self._folder.__exit__(kind, error, trace)

    def end_workers(self) -> None:
        """End every worker by its id and wait until it is gone."""

        async def gone() -> None:
            for worker in self._workers:
                worker.kill()
                worker.close()
                await worker.process.exited.wait()

        self.run(gone())
        self._workers.clear()

    async def _end_zygotes(self) -> None:
        for zygote in self._zygotes:
            zygote.channel.close()
        for process in self._processes:
            process.kill()
            await process.exited.wait()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the runtime's side until this is done."""
        return self._runner.run(work)

    def hang_up(self, *channels: Channel) -> None:
        """Close these connections, as a runtime that ends does."""

        async def close() -> None:
            for channel in channels:
                channel.close()

        self.run(close())

    def new_runtime(self, generation: int) -> Zygotes:
        """The fork servers as a runtime of this generation sees them; none is started or adopted yet."""
        return Zygotes(self._config, Claim(self.run_dir, []), generation, self._note_exit)

    def zygote(self) -> Zygote:
        """The running fork server."""
        zygote = self.run(self.zygotes.get(self.engine))
        if zygote not in self._zygotes:
            self._zygotes.append(zygote)
            self._processes.append(zygote.process)
        return zygote

    def worker(self) -> Worker:
        """A fresh, empty worker, connected as its runtime."""
        self.zygote()
        worker = Worker(self, secrets.token_hex(4))
        self._workers.append(worker)
        return worker

    def loaded(self, folder: Path) -> Worker:
        """A worker with this model, proven."""
        worker = self.worker()
        worker.load(folder)
        return worker

    def exit_of(self, worker: Worker) -> tuple[int | None, int | None]:
        """Exit code and signal of a worker, as the fork server tells them. It has to end."""

        self.wait_gone(worker.process)
        return self.run(self.told(worker.worker_id))

    def wait_gone(self, process: ProcessHandle) -> None:
        """Return once the process has ended."""

        async def gone() -> None:
            async with asyncio.timeout(WAIT_S):
                await process.exited.wait()

        self.run(gone())

    async def told(self, worker_id: str) -> tuple[int | None, int | None]:
        """Wait for the fork server's word on how this worker ended."""
        async with asyncio.timeout(WAIT_S):
            while worker_id not in self.exits:  # bounded by the time-out
                self._told.clear()
                await self._told.wait()
        return self.exits[worker_id]

    def own(self, pid: int) -> ProcessHandle:
        """Watch this process, and end it with everything else."""

        async def watch() -> ProcessHandle:
            return ProcessHandle(pid, lambda: None)

        process = self.run(watch())
        self._processes.append(process)
        return process

    def zygote_of_earlier_runtime(self) -> tuple[ProcessHandle, Channel]:
        """A fork server that we leave as a dying runtime does: nothing happens when its line is closed."""
        path, seconds = self.run_dir / f"zygote-{self.engine}.sock", self._config.limits.orphan_s
        python = self._config.engines[self.engine].python
        command = [python, "-I", str(WORKER_MAIN), "zygote", "--engine", self.engine, "--socket", str(path)]

        async def begin() -> tuple[ProcessHandle, Channel]:
            process = start([*command, "--orphan-timeout-s", str(seconds)], folder=self.run_dir, on_exit=lambda: None)
            self._processes.append(process)
            channel = await connect_when_up(path, process, lambda _h: None, lambda _c: None, timeout_s=WAIT_S)
            await channel.request("hello", timeout_s=WAIT_S, role="control", generation=1)
            return process, channel

        return self.run(begin())

    def adopt_zygote(self, process: ProcessHandle, generation: int) -> None:
        """Go on as the next runtime, which takes back this fork server."""
        self.zygotes = self.new_runtime(generation)

        async def take_back() -> bool:
            path = self.run_dir / f"zygote-{self.engine}.sock"
            channel = await connect(path, self.zygotes.on_event, lambda: None, timeout_s=WAIT_S)
            hello, _ = await channel.request("hello", timeout_s=WAIT_S, role="control", generation=generation)
            return await self.zygotes.adopt(channel, process, hello)

        assert self.run(take_back())

    def _note_exit(self, worker_id: str, exit_code: int | None, signal_number: int | None) -> None:
        self.exits[worker_id] = (exit_code, signal_number)
        self._told.set()


class Worker:
    """One worker process."""

    def __init__(self, stand: Stand, worker_id: str) -> None:
        self.stand = stand
        self.worker_id = worker_id
        self.socket = stand.run_dir / f"worker-{worker_id}.sock"
        self.digest = ""
        self._arena = Arena()
        self._lines: list[DataLine] = []
        pid = stand.run(stand.zygotes.spawn(stand.engine, worker_id, self.socket))
        self.process, self.channel = stand.run(self._connected(pid))
        self.hello = self.ask("hello", role="control", generation=1)

    async def _connected(self, pid: int) -> tuple[ProcessHandle, Channel]:
        process = ProcessHandle(pid, lambda: None)
        channel = await connect_when_up(self.socket, process, lambda _h: None, lambda _c: None, timeout_s=WAIT_S)
        return process, channel

    def ask(self, op: str, *, timeout_s: float = WAIT_S, fds: tuple[int, ...] = (), **fields: Any) -> Header:
        """One request of the runtime. Raises PeerRefused and Unavailable, as for the runtime."""
        return self.stand.run(self.channel.request(op, timeout_s=timeout_s, fds=fds, **fields))[0]

    def load(self, folder: Path, *, timeout_s: float = WAIT_S) -> Header:
        """Load and prove a folder from sealed memory by the runtime's own loader. Raises LoadFailed, Unavailable."""
        with planned(folder) as plan:
            header = self.stand.run(loading.load(self.channel, plan, timeout_s=timeout_s))
        self.digest = plan.digest
        return header

    def data_line(self) -> DataLine:
        """A connection as a front has it."""
        line = DataLine(self.socket, self._arena)
        self._lines.append(line)
        return line

    def infer(self, value: np.ndarray) -> np.ndarray:
        """The answer to one input on a data line of its own; the request has to succeed."""
        line = self.data_line()
        try:
            reply = line.infer(value)
            assert reply.code == wire.OK, reply
            return line.outputs(reply)[0]
        finally:
            line.close()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to this process alone."""
        self.process.kill(number)

    def close(self) -> None:
        """Leave it alone: all our connections to it are closed."""
        if not self.channel.closed:
            self.channel.close()
        for line in self._lines:
            line.close()

    def reconnect(self, generation: int) -> Header:
        """Come back as a runtime of this generation; what the worker says of itself. Raises PeerRefused."""

        async def again() -> Channel:
            return await connect(self.socket, lambda _h: None, lambda: None, timeout_s=WAIT_S)

        self.channel = self.stand.run(again())
        return self.ask("hello", role="control", generation=generation)

    def status(self, field: str) -> int:
        """A number of /proc/PID/status: Threads, VmHWM (KiB), VmRSS (KiB)."""
        return status_number(self.process.pid, field)


class Arena:
    """The shared memory of a front: SLOTS slots of SLOT_BYTES."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("arena", os.MFD_CLOEXEC)
        arena_bytes = SLOTS * SLOT_BYTES + wire.BEGUN_BYTES
        os.ftruncate(self.fd, arena_bytes)
        self.memory = mmap.mmap(self.fd, arena_bytes)

    def __del__(self) -> None:
        os.close(self.fd)


class DataLine:
    """What a front does: tensors into a slot, one small frame there, one small frame back."""

    def __init__(self, path: Path, arena: Arena) -> None:
        self._arena = arena
        self._frames = wire.DataDecoder()
        self._number = 0
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(str(path))
        self.hello = self.say_hello([arena.fd], slots=SLOTS, slot_bytes=SLOT_BYTES)

    def say_hello(self, fds: list[int], **fields: Any) -> Header:
        """Introduce ourselves as a front."""
        wire.send_frame(self.sock, {"op": "hello", "id": 1, "role": "data", **fields}, fds=fds)
        header, _ = next(wire.FrameDecoder().feed(self.sock.recv(1 << 16)))
        return header

    def infer(self, *values: np.ndarray, slot: int = 0, offset: int = 0) -> wire.DataReply:
        """Send these arrays, described truthfully."""
        tensors = []
        for position, value in enumerate(values):
            tensors.append(self.put(value, position, slot, offset))
            offset += -(-value.nbytes // 64) * 64
        return self.ask(wire.DataRequest(self._next(), slot, tuple(tensors)))

    def put(self, value: np.ndarray, position: int = 0, slot: int = 0, offset: int = 0) -> wire.Tensor:
        """Copy an array into the slot; its description."""
        at = slot * SLOT_BYTES + offset
        self._arena.memory[at : at + value.nbytes] = value.tobytes()
        dtype = next(name for name, (_, known, _) in wire.DTYPES.items() if known == value.dtype.name)
        return wire.Tensor(position, dtype, value.shape, offset, value.nbytes)

    def ask(self, request: wire.DataRequest) -> wire.DataReply:
        """Send a frame and wait for its answer. Raises OSError (TimeoutError too) and wire.WireError."""
        self.sock.sendall(wire.encode_request(request))
        return self.answer()

    def answer(self) -> wire.DataReply:
        """The next answer. Raises ConnectionResetError when the worker is gone."""
        data = b""
        while True:  # bounded by the socket's time-out
            for frame in self._frames.feed(data):
                return wire.decode_reply(frame)
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the worker is gone")

    def outputs(self, reply: wire.DataReply, slot: int = 0) -> list[np.ndarray]:
        """Copies of the arrays of an answer."""
        found = []
        for tensor in reply.outputs:
            at = slot * SLOT_BYTES + tensor.offset
            raw = self._arena.memory[at : at + tensor.nbytes]
            found.append(np.frombuffer(raw, dtype=wire.DTYPES[tensor.dtype][1]).reshape(tensor.dims))
        return found

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def _next(self) -> int:
        self._number += 1
        return self._number


@contextmanager
def planned(folder: Path) -> Iterator[loading.LoadPlan]:
    """A model folder as the runtime's load plan: all its files in sealed memory."""
    model = read_model_folder(folder)
    files = tuple(hash_file(folder / path, path, lambda _: None) for path in model.paths)
    manifest = model.manifest(files, tuple(engine.profile() for engine in model.description.engines))
    plan = loading.LoadPlan(manifest, encode_manifest(manifest)[1], manifest.engines[0])
    with contextlib.closing(plan):
        for path in model.paths:
            plan.names.append(path)
            plan.fds.append(sealed((folder / path).read_bytes()))
        yield plan


def sealed(content: bytes) -> int:
    """A sealed memory file; the caller closes it."""
    with SealedFile("test") as target:
        target.write(content)
        return target.seal()


def status_number(pid: int, field: str) -> int:
    """A number of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {field} in the status of process {pid}")
