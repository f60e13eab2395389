"""Finding the children of an earlier runtime: whoever listens in the run folder is asked who it is, and taken back or
ended.

Starting children is `pool`'s, `zygotes`' and `front_link`'s.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError
from edge_agent.core.state import LiveWorker
from edge_agent.folders import ADMIN_SOCKET, SYNC_SOCKET
from edge_agent.runtime.channel import Channel, Header, connect
from edge_agent.runtime.front_link import FrontLink
from edge_agent.runtime.pool import Pool
from edge_agent.runtime.process import ProcessHandle
from edge_agent.worker.wire import SCRATCH_SUFFIX

log = structlog.get_logger()


@dataclass
class Found:
    """A living child: its connection, process and own words."""

    path: Path
    channel: Channel
    process: ProcessHandle
    hello: Header


class Adoption:
    """One pass over the run folders at a boot."""

    def __init__(
        self,
        run_dirs: tuple[Path, ...],
        launched: frozenset[Path],
        generation: int,
        pool: Pool,
        front: FrontLink,
    ) -> None:
        """launched: sockets of children of this start, which are nobody's to take back."""
        self._launched = launched
        self._run_dirs = run_dirs
        self._generation = generation
        self._pool = pool
        self._front = front

    async def run(self, models_by_digest: dict[str, str]) -> tuple[LiveWorker, ...]:
        """Take back what fits; end the rest. The loaded workers that were taken back."""
        live: list[LiveWorker] = []
        for path in sorted(path for folder in self._run_dirs for path in folder.glob("*.sock")):
            if path.name in (ADMIN_SOCKET, SYNC_SOCKET) or path in self._launched:  # the runtime's own
                continue
            found = await self._ask(path)
            if found is None:
                path.unlink(missing_ok=True)
                continue
            worker = await self._take(found, models_by_digest)
            if worker is not None:
                live.append(worker)
        self._sweep()
        return tuple(live)

    def _sweep(self) -> None:
        """Temporary files of workers that ended while no runtime was there: their sockets are gone by now."""
        for scratch in (path for folder in self._run_dirs for path in folder.glob(f"*.sock{SCRATCH_SUFFIX}")):
            if not scratch.with_name(scratch.name.removesuffix(SCRATCH_SUFFIX)).exists():
                shutil.rmtree(scratch, ignore_errors=True)

    async def _ask(self, path: Path) -> Found | None:
        routed: list[Found] = []

        def on_event(header: Header) -> None:
            if routed:
                self._on_event(routed[0], header)

        def on_closed() -> None:
            if routed:
                self._on_closed(routed[0])

        channel: Channel | None = None
        process: ProcessHandle | None = None
        try:
            channel = await connect(path, on_event, on_closed, timeout_s=limits.ADOPTION_S)
            process = ProcessHandle(channel.peer_pid, lambda: self._on_exit(routed[0]) if routed else None)
            hello, _ = await channel.request(
                "hello", timeout_s=limits.ADOPTION_S, role="control", generation=self._generation
            )
        except (HoldfastError, ProcessLookupError) as error:
            log.info("child_not_adopted", socket=path.name, detail=str(error))
            if channel is not None:
                channel.close()
            if process is not None:
                await process.end(0.0)  # it listens but does not answer: it would hold memory and port for nothing
            return None
        found = Found(path, channel, process, hello)
        routed.append(found)
        return found

    async def _take(self, found: Found, models_by_digest: dict[str, str]) -> LiveWorker | None:
        kind = found.hello.get("kind")
        worker_id, digest = str(found.hello.get("worker_id")), str(found.hello.get("digest"))
        adopted = False
        if kind == "worker" and found.hello.get("state") == "ready" and digest in models_by_digest:
            self._pool.adopt(worker_id, models_by_digest[digest], digest, found.path, found.channel, found.process)
            log.info("worker_adopted", worker=worker_id, snapshot=digest, pid=found.process.pid)
            return LiveWorker(worker_id, digest)
        if kind == "zygote":
            adopted = await self._pool.zygotes.adopt(found.channel, found.process, found.hello)
        elif kind == "front":
            adopted = await self._front.adopt(found.channel, found.process)
        log.info("child_adopted" if adopted else "child_ended", kind=kind, pid=found.process.pid)
        if not adopted:
            found.channel.close()
            await found.process.end(0.0)
            found.path.unlink(missing_ok=True)
        return None

    def _on_event(self, found: Found, header: Header) -> None:
        if found.hello.get("kind") == "zygote":
            self._pool.zygotes.on_event(header)
        elif found.hello.get("kind") == "front":
            self._front.on_event(header)

    def _on_closed(self, found: Found) -> None:
        if found.hello.get("kind") == "zygote":
            self._pool.zygotes.forget(found.channel)
        elif found.hello.get("kind") == "front":
            self._front.forget(found.channel)

    def _on_exit(self, found: Found) -> None:
        worker = self._pool.get(str(found.hello.get("worker_id")))
        if worker is not None:
            self._pool.note_process_exit(worker)
