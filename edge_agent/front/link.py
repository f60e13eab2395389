"""A connection to one worker: shared slots for tensors, small frames for words.

Who gets which request is `scheduler`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import structlog

from edge_agent.front.protocol import InferRequest, OutputTensor
from edge_agent.front.scheduler import IN_FLIGHT_MAX, Job
from edge_agent.worker import wire

log = structlog.get_logger()

HANDSHAKE_S = 30.0  # a worker answers between two requests
ALIGNMENT_BYTES = 64
PUNCH_BYTES_MIN = 4 << 20  # after a larger request the slot's pages are given back


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said: outputs (views of shared memory, valid until the slot is free) or a code and text."""

    code: int
    outputs: tuple[OutputTensor, ...]
    text: str


class WorkerLink(asyncio.Protocol):
    """One worker. `on_answer` must be done with the outputs when it returns; then its slot is free: `on_free`."""

    def __init__(
        self,
        worker_id: str,
        digest: str,
        slot_bytes: int,
        on_answer: Callable[[WorkerLink, Job, Answer], None],
        on_free: Callable[[WorkerLink, Job], None],
        on_lost: Callable[[WorkerLink], None],
    ) -> None:
        self.worker_id = worker_id
        self.digest = digest
        self._slot_bytes = slot_bytes
        self._on_answer = on_answer
        self._on_free = on_free
        self._on_lost = on_lost
        self._decoder = wire.DataDecoder()
        self._free = list(range(IN_FLIGHT_MAX))
        self._jobs: dict[int, tuple[Job, int]] = {}
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self._fd = os.memfd_create(f"front-{worker_id}", os.MFD_CLOEXEC)
        arena_bytes = IN_FLIGHT_MAX * slot_bytes + wire.BEGUN_BYTES
        os.ftruncate(self._fd, arena_bytes)
        self._arena = mmap.mmap(self._fd, arena_bytes)
        self._view = memoryview(self._arena)
        self._broke = False
        self._closed = False

    async def open(self, path: str) -> None:
        """Connect and share the slots. Raises OSError or wire.WireError."""
        sock = await asyncio.to_thread(self._handshake, path)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=sock)

    def _handshake(self, path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(HANDSHAKE_S)
            sock.connect(path)
            hello = {"op": "hello", "id": 0, "role": "data", "slots": IN_FLIGHT_MAX, "slot_bytes": self._slot_bytes}
            wire.send_frame(sock, hello, fds=[self._fd])
            decoder = wire.FrameDecoder()
            while True:  # bounded by the socket's time-out
                data = sock.recv(1 << 16)
                if not data:
                    raise wire.WireError("the worker closed the connection")
                for header, _ in decoder.feed(data):
                    if not header.get("ok") or header.get("digest") != self.digest:
                        raise wire.WireError(f"the worker has another snapshot: {header}")
                    sock.setblocking(False)
                    return sock
        except BaseException:
            sock.close()
            raise

    def send(self, job: Job) -> None:
        """Copy the inputs into a free slot and tell the worker. The scheduler never sends more than there are slots."""
        request: InferRequest = job.payload.request
        slot = self._free.pop()
        base = slot * self._slot_bytes
        at = 0
        tensors = []
        for position, tensor in enumerate(request.inputs):
            end = at + len(tensor.data)
            self._view[base + at : base + end] = tensor.data
            tensors.append(wire.Tensor(position, tensor.dtype, tensor.dims, at, len(tensor.data)))
            at = (end + ALIGNMENT_BYTES - 1) // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        self._number += 1
        self._jobs[self._number] = (job, slot)
        assert self._transport is not None, "a job for a worker that was never reached"
        self._transport.write(wire.encode_request(wire.DataRequest(self._number, slot, tuple(tensors))))

    def has_begun(self) -> bool:
        """Whether the worker has begun with the oldest request that it has not answered, or has answered it with
        nonsense (`on_lost` may ask).
        """
        oldest = next(iter(self._jobs), 0)
        return self._broke or wire.read_begun(self._arena, IN_FLIGHT_MAX * self._slot_bytes) == oldest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's word for: connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass

    def data_received(self, data: bytes) -> None:
        """Answers. A worker that breaks the agreement is left."""
        try:
            for frame in self._decoder.feed(data):
                self._take(wire.decode_reply(frame))
        except wire.WireError as error:
            log.warning("worker_left", worker=self.worker_id, detail=str(error))
            self._broke = True
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone."""
        self.close()

    def close(self) -> None:
        """Leave this worker; told once."""
        if self._closed:
            return
        self._closed = True
        if self._transport is not None:
            self._transport.close()
        self._on_lost(self)
        self._view.release()
        self._arena.close()
        os.close(self._fd)

    def _take(self, reply: wire.DataReply) -> None:
        found = self._jobs.pop(reply.request_id, None)
        if found is None:
            raise wire.WireError("an answer to no request")
        job, slot = found
        base = slot * self._slot_bytes
        outputs = tuple(self._output(base, tensor) for tensor in reply.outputs)
        end = max((tensor.offset + tensor.nbytes for tensor in reply.outputs), default=0)
        self._on_answer(self, job, Answer(reply.code, outputs, reply.text))
        for output in outputs:
            output.data.release()
        if end > PUNCH_BYTES_MIN:
            self._arena.madvise(mmap.MADV_REMOVE, base, self._slot_bytes)
        self._free.append(slot)
        self._on_free(self, job)

    def _output(self, base: int, tensor: wire.Tensor) -> OutputTensor:
        if tensor.offset + tensor.nbytes > self._slot_bytes:
            raise wire.WireError("an output outside its slot")
        wanted_bytes = wire.element_count(tensor.dims) * wire.DTYPES[tensor.dtype][2]
        if tensor.nbytes != wanted_bytes or any(dim < 0 for dim in tensor.dims):
            raise wire.WireError("an output's bytes do not fit its shape")
        start = base + tensor.offset
        return OutputTensor(tensor.dtype, tensor.dims, self._view[start : start + tensor.nbytes])


def fingerprint(model: str, request: InferRequest) -> str:
    """Names a request in logs and evidence: SHA-256 over the model and the input bytes, first 16 digits."""
    digest = hashlib.sha256(model.encode())
    for tensor in request.inputs:
        digest.update(tensor.data)
    return digest.hexdigest()[:16]
