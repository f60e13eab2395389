"""The fork servers, one per engine: started on demand, adopted after a restart, asked for workers.

Loading is `pool`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from edge_agent.config import Config
from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.runtime.channel import Channel, Header, PeerRefused, connect_when_up
from edge_agent.runtime.claim import Claim, fork_server_command, fork_server_socket
from edge_agent.runtime.process import ProcessHandle, start

log = structlog.get_logger()

HELLO_S = 60.0  # importing an engine takes 1-2 s, on a cold, busy device much longer
SPAWN_S = 10.0

ExitListener = Callable[[str, int | None, int | None], None]  # worker id, exit code, signal


@dataclass
class Zygote:
    """A running fork server."""

    engine: str
    process: ProcessHandle
    channel: Channel
    python: str
    available: bool
    detail: str
    engine_version: str


class Zygotes:
    """All fork servers of this device."""

    def __init__(self, config: Config, claim: Claim, generation: int, on_worker_exit: ExitListener) -> None:
        self._config = config
        self._run_dir = claim.run_dir
        self._launched = claim.fork_servers
        self._generation = generation
        self._on_worker_exit = on_worker_exit
        self._zygotes: dict[str, Zygote] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, engine: str) -> Zygote:
        """The fork server of this engine, started if needed.

        Raises Unavailable (engine_missing) when its interpreter or the engine in it is not there.
        """
        async with self._locks.setdefault(engine, asyncio.Lock()):
            zygote = self._zygotes.get(engine)
            if zygote is None:
                zygote = await self._start(engine)
        if not zygote.available:
            await self._drop(zygote)
            raise Unavailable(
                f"engine {engine!r} is not in {zygote.python}: {zygote.detail}", reason=Reason.ENGINE_MISSING
            )
        return zygote

    async def spawn(self, engine: str, worker_id: str, socket: Path) -> int:
        """Fork a worker that listens at `socket`; its pid.

        A fork server that does not answer is ended: the next call has a new one. Raises Unavailable (engine_missing,
        no_worker).
        """
        zygote = await self.get(engine)
        limits = self._config.limits
        try:
            header, _ = await zygote.channel.request(
                "spawn",
                timeout_s=SPAWN_S,
                worker_id=worker_id,
                socket=str(socket),
                address_space_bytes=limits.worker_memory_bytes or None,
                orphan_timeout_s=limits.orphan_s,
            )
        except PeerRefused as refusal:
            raise Unavailable(f"the fork server refused: {refusal.text}", reason=Reason.NO_WORKER) from refusal
        except Unavailable as error:
            log.warning("zygote_did_not_answer", engine=engine, pid=zygote.process.pid, detail=error.message)
            self.forget(zygote.channel)
            zygote.channel.close()
            raise Unavailable(f"no fork: {error.message}", reason=Reason.NO_WORKER) from error
        return int(header["pid"])

    async def adopt(self, channel: Channel, process: ProcessHandle, hello: Header) -> bool:
        """Take back a fork server of an earlier runtime; False if it no longer fits the settings."""
        engine = str(hello.get("engine"))
        settings = self._config.engines.get(engine)
        if settings is None or engine in self._zygotes or not _same_file(settings.python, str(hello.get("python"))):
            return False
        self._zygotes[engine] = _zygote(engine, process, channel, hello)
        return True

    def on_event(self, header: Header) -> None:
        """An event of a fork server: the end of one of its workers."""
        if header.get("event") == "exited":
            self._on_worker_exit(str(header.get("worker_id")), header.get("exit_code"), header.get("signal"))

    def forget(self, channel: Channel) -> None:
        """A fork server's connection is gone: it is started again when it is needed."""
        for engine, zygote in list(self._zygotes.items()):
            if zygote.channel is channel:
                del self._zygotes[engine]
                zygote.process.kill()

    async def end(self) -> None:
        """End all fork servers."""
        for zygote in list(self._zygotes.values()):
            await self._drop(zygote)

    def describe(self) -> list[dict[str, Any]]:
        """What `doctor` and `status` say of the engines."""
        return [
            {"engine": z.engine, "python": z.python, "version": z.engine_version, "pid": z.process.pid}
            for z in self._zygotes.values()
        ]

    async def _start(self, engine: str) -> Zygote:
        """The one that was launched with the agent, if it is still there: nobody may have needed it for so long that it
        ended as an orphan. Else another one.
        """
        launched = self._launched_with_agent(engine)
        if launched is not None:
            with contextlib.suppress(Unavailable):
                return await self._introduced(engine, launched)
            log.info("zygote_launched_again", engine=engine)
        return await self._introduced(engine, self._launch(engine))

    async def _introduced(self, engine: str, process: ProcessHandle) -> Zygote:
        try:
            channel = await self._connect(fork_server_socket(self._run_dir, engine), process)
            hello, _ = await channel.request("hello", timeout_s=HELLO_S, role="control", generation=self._generation)
        except asyncio.CancelledError:
            process.kill()  # nobody knows of it yet
            raise
        except HoldfastError as error:
            process.kill()
            raise Unavailable(
                f"the fork server of engine {engine!r} did not start: {error.message}",
                reason=Reason.ENGINE_MISSING,
            ) from error
        zygote = _zygote(engine, process, channel, hello)
        log.info(
            "zygote_up",
            engine=engine,
            pid=process.pid,
            version=zygote.engine_version,
            available=zygote.available,
        )
        self._zygotes[engine] = zygote
        return zygote

    def _launched_with_agent(self, engine: str) -> ProcessHandle | None:
        launched = self._launched.pop(engine, None)
        if launched is not None:
            with contextlib.suppress(ProcessLookupError):
                return ProcessHandle(launched, lambda: None)
        return None

    def _launch(self, engine: str) -> ProcessHandle:
        settings = self._config.engines.get(engine)
        if settings is None:
            raise Unavailable(f"no [engines.{engine}] in agent.toml", reason=Reason.ENGINE_MISSING)
        fork_server_socket(self._run_dir, engine).unlink(missing_ok=True)
        command = fork_server_command(self._config, self._run_dir, engine)
        try:
            return start(command, folder=self._run_dir, on_exit=lambda: None)
        except OSError as error:
            raise Unavailable(f"cannot start {settings.python}: {error}", reason=Reason.ENGINE_MISSING) from error

    async def _connect(self, path: Path, process: ProcessHandle) -> Channel:
        return await connect_when_up(path, process, self.on_event, self.forget, timeout_s=HELLO_S)

    async def _drop(self, zygote: Zygote) -> None:
        self._zygotes.pop(zygote.engine, None)
        with contextlib.suppress(HoldfastError):
            await zygote.channel.request("exit", timeout_s=1.0)
        zygote.channel.close()
        await zygote.process.end()


def _zygote(engine: str, process: ProcessHandle, channel: Channel, hello: Header) -> Zygote:
    return Zygote(
        engine=engine,
        process=process,
        channel=channel,
        python=str(hello.get("python", "")),
        available=bool(hello.get("engine_available")),
        detail=str(hello.get("detail") or ""),
        engine_version=str(hello.get("engine_version") or ""),
    )


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
