"""The worker processes of all models: kept as many, and with what, as the core wishes. No decision about snapshots is
made here.

Level-triggered: `keep` says which workers should be loaded; shortages are brought up, surplus ends once no request is
routed to it. Facts go back as events: WorkerUp, BringUpFailed, WorkerDied.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import structlog

from edge_agent.config import Config
from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.backoff import Deaths, respawn_delay_s, with_trouble
from edge_agent.core.blame import is_loaded_again, reason_of_failed_load
from edge_agent.runtime.channel import Channel, Header, connect_when_up
from edge_agent.runtime.claim import Claim
from edge_agent.runtime.library import Library
from edge_agent.runtime.loading import LoadFailed, LoadPlan, load, plan_load
from edge_agent.runtime.process import ProcessHandle
from edge_agent.runtime.tasks import Tasks
from edge_agent.runtime.zygotes import Zygotes
from edge_agent.worker.wire import SCRATCH_SUFFIX

log = structlog.get_logger()


class WorkerStage(StrEnum):
    """A worker process, from the fork to its end."""

    LOADING = "loading"
    UP = "up"
    ENDING = "ending"


@dataclass(eq=False)
class Worker:
    """One worker process."""

    worker_id: str
    model: str
    digest: str
    socket: Path
    stage: WorkerStage = WorkerStage.LOADING
    process: ProcessHandle | None = None
    channel: Channel | None = None
    exit_signal: int | None = None
    condemned: bool = False
    exit_told: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ending(self) -> bool:
        """Whether it is on its way out."""
        return self.stage is WorkerStage.ENDING


class FrontPort(Protocol):
    """What the pool needs of the front: it routes requests to workers and says when a worker has none left."""

    def workers_changed(self, model: str) -> None:
        """The loaded workers of this model are others now."""

    async def released(self, worker_id: str) -> None:
        """Return once no request is at this worker any more (bounded by the front's deadline)."""


class Pool:
    """All workers of this device."""

    def __init__(
        self,
        config: Config,
        library: Library,
        claim: Claim,
        generation: int,
        post: Callable[[ev.Event], object],
        front: FrontPort,
        tasks: Tasks,
    ) -> None:
        self.zygotes = Zygotes(config, claim, generation, self._note_exit_status)
        self.on_exit_status: Callable[[Worker, int | None, int | None], None] = lambda _w, _c, _s: None
        self._config = config
        self._library = library
        self._run_dir = claim.run_dir
        self._generation = generation
        self._post = post
        self._front = front
        self._tasks = tasks
        self._workers: dict[str, Worker] = {}
        self._gone: dict[str, Worker] = {}
        self._wishes: dict[str, tuple[str, ...]] = {}
        self._troubles: dict[str, Deaths] = {}

    def up(self, model: str, digest: str) -> list[Worker]:
        """Loaded workers of this snapshot, oldest first."""
        return [w for w in self._workers.values() if (w.model, w.digest, w.stage) == (model, digest, WorkerStage.UP)]

    def loaded(self, model: str) -> list[Worker]:
        """Loaded workers of this model, spares too."""
        return [w for w in self._workers.values() if w.model == model and w.stage is WorkerStage.UP]

    def describe(self) -> list[dict[str, Any]]:
        """The worker processes, for the status document."""
        return [
            {
                "id": worker.worker_id,
                "model": worker.model,
                "digest": worker.digest,
                "stage": worker.stage.value,
                "pid": worker.process.pid if worker.process else None,
            }
            for worker in self._workers.values()
        ]

    def get(self, worker_id: str) -> Worker | None:
        """A living worker, or one that ended a moment ago."""
        return self._workers.get(worker_id) or self._gone.get(worker_id)

    def keep(self, model: str, digests: tuple[str, ...]) -> None:
        """Have exactly these workers, one per entry, the most urgent first."""
        self._wishes[model] = digests
        self._reconcile(model)

    def adopt(
        self, worker_id: str, model: str, digest: str, socket: Path, channel: Channel, process: ProcessHandle
    ) -> None:
        """Take back a loaded worker of an earlier runtime."""
        worker = Worker(worker_id, model, digest, socket, WorkerStage.UP, process, channel)
        self._workers[worker_id] = worker
        if process.exited.is_set():
            self.note_process_exit(worker)

    def _reconcile(self, model: str) -> None:
        missing = Counter(self._wishes.get(model, ()))
        surplus: list[Worker] = []
        for worker in self._of(model):
            if missing[worker.digest] > 0:
                missing[worker.digest] -= 1
            else:
                surplus.append(worker)
        for digest in self._wishes.get(model, ()):
            if missing[digest] > 0:
                missing[digest] -= 1
                self._start(model, digest)
        for worker in surplus:
            self._retire(worker)

    def _of(self, model: str) -> list[Worker]:
        return [w for w in self._workers.values() if w.model == model and w.stage is not WorkerStage.ENDING]

    def _start(self, model: str, digest: str) -> None:
        worker_id = secrets.token_hex(6)
        worker = Worker(worker_id, model, digest, self._run_dir / f"worker-{worker_id}.sock")
        self._workers[worker_id] = worker
        self._tasks.spawn(self._bring_up(worker), name=f"bring-up-{worker_id}")

    async def _bring_up(self, worker: Worker) -> None:
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(respawn_delay_s(self._troubles.get(worker.digest, ()), now_s))
        for attempt in range(1, limits.LOAD_KILLED_MAX + 1):
            if worker.ending:
                self._forget(worker)
                return
            try:
                await self._load(worker)
            except LoadFailed as failure:
                if worker.ending:
                    await self._end(worker)
                    return
                if is_loaded_again(failure.reason, worker.exit_signal, attempt):
                    log.warning("load_tried_again", model=worker.model, snapshot=worker.digest, attempt=attempt,
                                detail=failure.message)  # fmt: skip
                    if worker.process:
                        worker.process.kill()
                    worker.process, worker.channel, worker.exit_signal = None, None, None
                    worker.exit_told = asyncio.Event()
                    continue
                self._fail(worker, failure)
            return

    async def _load(self, worker: Worker) -> None:
        plan = await plan_load(self._library, worker.digest, tuple(self._config.engines))
        try:
            answer = await self._spawn_and_load(worker, plan)
        except Unavailable as error:
            reason = error.reason or await self._death_reason(worker)
            raise LoadFailed(reason, error.message) from error
        finally:
            plan.close()
        if worker.ending:
            await self._end(worker)
            return
        worker.stage = WorkerStage.UP
        log.info("worker_up", model=worker.model, snapshot=worker.digest, worker=worker.worker_id,
                 load_ms=answer.get("load_ms"), device_used=answer.get("device"),
                 proof=answer.get("proof"))  # fmt: skip
        self._post(ev.WorkerUp(worker.model, worker.worker_id, worker.digest))
        self._front.workers_changed(worker.model)
        await self._library.record_proof(worker.digest, plan.profile, answer)  # last: the disk may hang

    async def _spawn_and_load(self, worker: Worker, plan: LoadPlan) -> Header:
        pid = await self.zygotes.spawn(plan.profile.engine, worker.worker_id, worker.socket)
        try:
            worker.process = ProcessHandle(pid, lambda: self.note_process_exit(worker))
        except ProcessLookupError:
            raise Unavailable("the worker ended at once") from None
        timeout_s = self._config.limits.load_timeout_s
        worker.channel = await connect_when_up(
            worker.socket, worker.process, lambda _h: None, lambda _c: None, timeout_s=timeout_s
        )
        await worker.channel.request("hello", timeout_s=timeout_s, role="control", generation=self._generation)
        return await load(worker.channel, plan, timeout_s=timeout_s)

    async def _death_reason(self, worker: Worker) -> Reason:
        """Why a loading worker is gone: wait a moment for the fork server's word on it. No word accuses nobody."""
        try:
            async with asyncio.timeout(limits.EXIT_STATUS_S):
                await worker.exit_told.wait()
        except TimeoutError:
            return Reason.NO_WORKER
        return Reason.LOAD_CRASH

    def _fail(self, worker: Worker, failure: LoadFailed) -> None:
        self._note_trouble(worker.digest)
        if worker.process:
            worker.process.kill()
        self._forget(worker)
        reason = reason_of_failed_load(failure.reason, worker.exit_signal)
        log.warning("bring_up_failed", model=worker.model, snapshot=worker.digest, worker=worker.worker_id,
                    reason=reason.value, detail=failure.message, next_step=reason.next_step)  # fmt: skip
        self._post(ev.BringUpFailed(worker.model, worker.digest, reason, failure.message))
        self._tasks.spawn(self._reconcile_later(worker.model), name="reconcile-later")

    async def _reconcile_later(self, model: str) -> None:
        """A wish that failed and still stands (a spare, say) is tried again after a pause."""
        await asyncio.sleep(limits.BRING_UP_PAUSE_S)
        self._reconcile(model)

    def note_process_exit(self, worker: Worker) -> None:
        """The kernel says that this worker's process is gone."""
        if worker.channel:
            worker.channel.close()
        if worker.stage is WorkerStage.LOADING:
            return  # its bring-up task finds out by itself
        expected = worker.stage is WorkerStage.ENDING
        self._forget(worker)
        self._front.workers_changed(worker.model)
        if not expected:
            self._note_trouble(worker.digest)
            log.warning("worker_died", model=worker.model, snapshot=worker.digest, worker=worker.worker_id)
            self._post(ev.WorkerDied(worker.model, worker.worker_id, worker.digest))

    def _note_exit_status(self, worker_id: str, exit_code: int | None, signal_number: int | None) -> None:
        worker = self.get(worker_id)
        if worker is None:
            return
        worker.exit_signal = signal_number
        worker.exit_told.set()
        if worker.stage is WorkerStage.UP:
            self.on_exit_status(worker, exit_code, signal_number)

    def _retire(self, worker: Worker) -> None:
        """No longer wished: end it, once the front has nothing in flight there."""
        was_up = worker.stage is WorkerStage.UP
        worker.stage = WorkerStage.ENDING
        if was_up:
            self._post(ev.WorkerDied(worker.model, worker.worker_id, worker.digest))
            self._front.workers_changed(worker.model)
            self._tasks.spawn(self._end(worker), name=f"end-{worker.worker_id}")

    async def _end(self, worker: Worker) -> None:
        worker.stage = WorkerStage.ENDING
        if worker.channel is None or worker.process is None:
            self._forget(worker)
            return
        with contextlib.suppress(HoldfastError):
            await self._front.released(worker.worker_id)
        with contextlib.suppress(HoldfastError):
            await worker.channel.request("exit", timeout_s=limits.WORKER_END_S)
        await worker.process.end()

    def condemn(self, worker_id: str) -> Worker | None:
        """Kill a worker that does not answer, or answers wrongly; the worker, if this was not said of it before."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.process is None or worker.condemned:
            return None
        worker.condemned = True
        worker.process.kill()
        return worker

    async def end(self) -> None:
        """End all workers and fork servers."""
        self._wishes.clear()
        for worker in list(self._workers.values()):
            worker.stage = WorkerStage.ENDING
            if worker.process:
                worker.process.kill()
                await worker.process.exited.wait()
        await self.zygotes.end()

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.worker_id, None)
        self._gone[worker.worker_id] = worker
        while len(self._gone) > limits.WORKERS_REMEMBERED_MAX:
            del self._gone[next(iter(self._gone))]
        worker.socket.unlink(missing_ok=True)
        shutil.rmtree(f"{worker.socket}{SCRATCH_SUFFIX}", ignore_errors=True)

    def _note_trouble(self, digest: str) -> None:
        self._troubles = with_trouble(self._troubles, digest, asyncio.get_running_loop().time())
