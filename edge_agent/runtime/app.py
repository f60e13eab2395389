"""The runtime put together: lock, store, children, executor, sockets; started in this order and ended in reverse.

Each part knows only what it is given here; no decision about snapshots is made in this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import structlog

from edge_agent import AGENT_VERSION
from edge_agent.config import Config
from edge_agent.contract import limits
from edge_agent.contract.device_state import DeviceState
from edge_agent.contract.errors import Bug, HoldfastError
from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind
from edge_agent.core import events as ev
from edge_agent.core.actions import Action, DropOffer, KeepWorkers, Route, Tell, Verify
from edge_agent.core.state import ModelState, Moment, Phase, Settings
from edge_agent.folders import ADMIN_SOCKET, SYNC_SOCKET, run_folders
from edge_agent.runtime.admin import AdminServer
from edge_agent.runtime.adoption import Adoption
from edge_agent.runtime.assignments import AssignmentDesk
from edge_agent.runtime.authority import Authority
from edge_agent.runtime.claim import Claim, fork_server_socket
from edge_agent.runtime.crashes import CrashReporter
from edge_agent.runtime.device_state import device_state
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.front_link import FrontLink
from edge_agent.runtime.library import Library, read_pinned_root
from edge_agent.runtime.link_state import LinkState
from edge_agent.runtime.marks import Marks
from edge_agent.runtime.offers import OfferDesk
from edge_agent.runtime.persistence import AgentStore
from edge_agent.runtime.pool import Pool, Worker
from edge_agent.runtime.process import become_subreaper
from edge_agent.runtime.publisher_word import PublisherWord
from edge_agent.runtime.replay import Replay
from edge_agent.runtime.retention import Retention
from edge_agent.runtime.scrub import Scrubber
from edge_agent.runtime.status import status_document
from edge_agent.runtime.sync_process import SyncProcess
from edge_agent.runtime.sync_server import SyncServer
from edge_agent.runtime.tasks import Tasks
from edge_agent.store.opening import open_store
from edge_agent.store.thread import StoreThread
from edge_agent.trust.chain import check_pinned_root

log = structlog.get_logger()


def monotonic_and_wall() -> Moment:
    """The one clock of the runtime."""
    return Moment(time.monotonic(), time.time_ns() // 1_000_000)


def generation_now() -> int:
    """Orders the runtimes that children may meet, without any disk: children never outlive a boot of the machine, and
    this clock (CLOCK_BOOTTIME, milliseconds) only grows within one."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Runtime:
    """One agent's runtime process."""

    def __init__(self, config: Config, claim: Claim) -> None:
        """claim: the caller's, who gives it back after `run`."""
        self._config = config
        self._state_dir = Path(config.state_dir)
        self._claim = claim
        self._run_dir = claim.run_dir
        self._queue: asyncio.Queue[ev.Event] = asyncio.Queue(limits.FACTS_WAITING_MAX)

    async def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, stop. Raises Rejected when it cannot start; bugs end the process."""
        pinned_root = read_pinned_root(Path(self._config.trusted_root))
        check_pinned_root(pinned_root)
        become_subreaper()
        await self._open(pinned_root)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            await self._start()
            stopping = asyncio.create_task(stop.wait())
            waiting: set[asyncio.Future[Any]] = {stopping, self._tasks.failed}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._tasks.failed.done():
                self._tasks.failed.result()
        finally:
            await self._end()

    async def _open(self, pinned_root: bytes) -> None:
        config = self._config
        self._tasks = Tasks()
        self._agent_thread, self._models_thread = StoreThread(), StoreThread()
        opened = await self._models_thread.call(open_store, self._state_dir, monotonic_and_wall().unix_ms)
        for note in opened.notes:
            log.warning("store_note", detail=note)
        self._store = AgentStore(self._agent_thread, self._state_dir / "agent.db", opened.agent, config.device_id)
        self._boot = await self._store.begin()
        generation = generation_now()
        factories = {name: Path(model.factory) for name, model in config.models.items() if model.factory}
        models_db = self._state_dir / "models.db"
        self._library = Library(self._models_thread, models_db, opened.models, factories, pinned_root)
        saved = await self._store.states()
        states = [saved.get(name) or ModelState(name) for name in config.models]
        self._executor = Executor(self._store, self, monotonic_and_wall, states)
        self._executor.storage_reason = opened.read_only
        self._front = FrontLink(
            config, self._run_dir, generation, self._library.manifest, self._workers_of, self._post, self._tasks
        )
        self._pool = Pool(config, self._library, self._claim, generation, self._post, self._front, self._tasks)
        crashes = CrashReporter(self._post, self._tasks)
        self._crashes = crashes
        self._pool.on_exit_status = crashes.died
        self._front.listeners = self
        self._front.gauges = self._gauges
        self._marks = Marks(self._agent_thread, self._store, self._state_dir)
        self._publisher = PublisherWord(self._executor, pinned_root)
        self._desk = OfferDesk(
            config, self._library, self._marks, self._executor, self._publisher, pinned_root, self._tasks
        )
        self._scrubber = Scrubber(config, self._library, self._executor)
        self._admin = AdminServer(
            self._executor, self._desk, self._scrubber, self._store, self.status, self._front.routed
        )
        self._retention = Retention(config, self._library, self._executor)
        self._replay = Replay(config, self._library.manifest, self._pool, self._executor, self._post, self._tasks)
        self._open_line(pinned_root)
        self._generation = generation

    def _open_line(self, pinned_root: bytes) -> None:
        """The parts that face the process which speaks with the network."""
        config = self._config
        self._link = LinkState(monotonic_and_wall, configured=config.sync.broker is not None)
        self._authority = Authority(self._agent_thread, self._marks, self._state_dir, pinned_root, self._publisher)
        self._assignments = AssignmentDesk(
            config.device_id, self._authority, self._marks, self._executor, self._library.is_admitted
        )
        self._sync_server = SyncServer(
            config, self._executor, self._desk, self._assignments, self._authority, self._store, self._link,
            self._device_state,
        )  # fmt: skip
        self._sync = SyncProcess(config, self._run_dir, self._run_dir / SYNC_SOCKET, self._link)

    async def _start(self) -> None:
        config = self._config
        known = await self._library.scan(frozenset(config.models))
        await self._marks.load(self._library.seen_versions())
        await self._authority.load()
        by_digest = {}
        for snapshot in known:
            manifest = self._library.manifest(snapshot.digest)
            if manifest is not None:
                by_digest[snapshot.digest] = manifest.name
        launched = frozenset(fork_server_socket(self._run_dir, engine) for engine in self._claim.fork_servers)
        adoption = Adoption(run_folders(self._state_dir), launched, self._generation, self._pool, self._front)
        live = await adoption.run(by_digest)
        if not self._front.address:
            self._front.bind()
        self._tasks.spawn(self._executor.run(), name="executor")
        self._tasks.spawn(self._feed(), name="events")
        for name, model in config.models.items():
            mine = tuple(snapshot for snapshot in known if by_digest.get(snapshot.digest) == name)
            workers = tuple(worker for worker in live if by_digest.get(worker.digest) == name)
            settings = Settings(model.policy(), model.spare)
            await self._executor.post(ev.Booted(name, settings, mine, workers))
            self._resume_offer(name)
        self._tasks.spawn(self._drop_orphaned_offers(), name="drop-orphaned-offers")
        self._tasks.spawn(self._front.run(), name="front")
        await self._admin.start(self._run_dir / ADMIN_SOCKET)
        await self._sync_server.start(self._run_dir / SYNC_SOCKET)
        self._tasks.spawn(self._sync.run(), name="sync")
        self._tasks.spawn(self._scrubber.run(), name="scrub")
        self._tasks.spawn(self._retention.run(), name="retention")
        self._replay.start(config.models)
        log.info("agent_up", version=AGENT_VERSION, http=self._front.address, boot=self._boot,
                 snapshots=len(known), adopted_workers=len(live))  # fmt: skip

    async def _drop_orphaned_offers(self) -> None:
        """A kill between storing an offer and saving the candidate leaves an offer that no slot knows of."""
        candidates = [state.candidate.digest for state in self._executor.states() if state.candidate]
        try:
            await self._library.drop_offers_but(frozenset(candidates))
        except HoldfastError as error:
            log.warning("orphaned_offers_kept", detail=error.message)

    def _resume_offer(self, model: str) -> None:
        """A half-received offer of an earlier runtime waits for whoever offers it again, but not for ever."""
        state = self._executor.state(model)
        if state.phase is Phase.FETCHING and state.candidate is not None:
            self._tasks.spawn(self._abandon_later(model, state.candidate.digest), name="abandon-old-offer")

    async def _abandon_later(self, model: str, digest: str) -> None:
        await asyncio.sleep(limits.OFFER_KEPT_S)
        if not any(offer["digest"] == digest for offer in self._desk.describe()):
            await self._desk.abandon(model, digest)

    async def _end(self) -> None:
        log.info("agent_stopping")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.STOP_S):
                for state in self._executor.states():
                    await self._executor.post(ev.Stopping(state.model))
                self._front.ending = True
                await self._sync.end()
                await self._sync_server.end()
                await self._admin.end()
                await self._front.end()
                await self._pool.end()
        await self._tasks.end()
        for thread in (self._agent_thread, self._models_thread):
            if not thread.end(limits.STORE_END_S):
                log.error("disk_hangs_at_the_end", next_step=Reason.DISK_HANGS.next_step)
        shutil.rmtree(self._run_dir, ignore_errors=True)

    # ---- the executor's actor

    def act(self, action: Action) -> None:
        """Start an action of the core; outcomes come back as events."""
        match action:
            case KeepWorkers():
                self._pool.keep(action.model, action.digests)
            case Route():
                self._front.set_route(action)
            case Verify():
                self._tasks.spawn(self._verify(action), name=f"verify-{action.digest[:12]}")
            case DropOffer():
                self._tasks.spawn(self._desk.drop(action.digest), name=f"drop-{action.digest[:12]}")

    async def _verify(self, action: Verify) -> None:
        """Evidence, then every byte, in pieces that nothing waits for."""
        model, digest = action.model, action.digest
        try:
            verified = await self._library.verified(digest)
            if not self._library.is_in_factory(digest):
                await self._library.discard_damage(verified.manifest)
                missing = await self._library.missing(digest)
                if missing:
                    self._post(ev.VerifyFailed(model, digest, Reason.DAMAGE, f"{len(missing)} chunks are damaged"))
                    return
        except HoldfastError as error:
            self._post(ev.VerifyFailed(model, digest, error.reason or Reason.DAMAGE, error.message))
            return
        self._post(ev.VerifyPassed(model, digest))

    # ---- what others ask

    def _post(self, event: ev.Event) -> None:
        """A fact that cannot be kept must not be lost: the next runtime finds out itself how things are."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._tasks.fail(Bug(f"{limits.FACTS_WAITING_MAX} facts wait for a decision and none is made"))

    async def _feed(self) -> None:
        """Facts from children, in order; their number is bounded by the number of children and requests."""
        while True:  # ends by cancellation
            await self._executor.post(await self._queue.get())

    def _workers_of(self, model: str, digest: str) -> list[Worker]:
        return self._pool.up(model, digest)

    def lost_request(self, worker_id: str, fingerprint: str) -> None:
        """The front lost a worker with this request in flight."""
        self._crashes.lost_request(worker_id, fingerprint)

    def hung_request(self, worker_id: str, fingerprint: str) -> None:
        """The front waited too long for this worker: it is ended, and that speaks against the snapshot."""
        worker = self._pool.condemn(worker_id)
        if worker is not None:
            log.warning(
                "worker_hung", worker=worker_id, model=worker.model, snapshot=worker.digest, request=fingerprint
            )
            self._crashes.hung(worker, fingerprint)

    def poison(self, model: str, digest: str, fingerprint: str) -> None:
        """Worth a report, and nothing against the snapshot."""
        if model in self._config.models:
            tell = Tell(model, ReportKind.POISON, digest, None, detail=f"request {fingerprint}")
            self._tasks.spawn(self._store.tell_telemetry(tell, monotonic_and_wall()), name="telemetry")

    def _gauges(self) -> dict[str, float]:
        values: dict[str, float] = {
            "storage_writable": 0.0 if self._executor.storage_reason else 1.0,
            "sync_connected": float(self._link.connected),
        }
        for state in self._executor.states():
            values[f"fallbacks:{state.model}"] = float(state.fallbacks)
            values[f"damaged_snapshots:{state.model}"] = float(sum(known.damaged for known in state.known))
            values[f"quarantined:{state.model}"] = float(len(state.quarantine))
        return values

    def _device_state(self, connection_id: str) -> DeviceState:
        """The state document for the coordinator."""
        return device_state(
            self._config.device_id,
            connection_id,
            self._executor.states(),
            number=self._executor.changes,
            at_unix_ms=monotonic_and_wall().unix_ms,
            routed=self._front.routed,
            storage_reason=self._executor.storage_reason,
            taken=self._assignments.taken,
        )

    async def status(self) -> dict[str, Any]:
        """The status document."""
        return status_document(
            self._config.device_id,
            self._executor.states(),
            routed=self._front.routed,
            storage_reason=self._executor.storage_reason,
            link={
                **self._link.document(),
                "outbox": await self._store.outbox_count(),
                "epoch": self._assignments.taken.epoch,
                "revision": self._assignments.taken.revision,
            },
            http=self._front.address,
            processes={
                "runtime": os.getpid(),
                "front": self._front.pid,
                "sync": self._sync.pid,
                "zygotes": self._pool.zygotes.describe(),
                "workers": self._pool.describe(),
            },
        )
