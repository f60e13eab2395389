"""Golden vectors run again through loaded workers: for a candidate that is watched, so that a quiet device comes to an
end, and for each worker in steady state. How often a watch asks, and what follows, is decided in `core`.

One vector at a time, between two requests in the worker's own queue: a live request never waits for more than one. A
worker whose output is not the proven one any more is ended, which replaces it from verified bytes. So is one that has
answered nobody for twice the longest request: a worker answers its runtime between two requests, so a busy one does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from edge_agent.config import Config
from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Unavailable
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.tally import Tally, counted, latency_bucket
from edge_agent.core import events as ev
from edge_agent.core.judgement import Watch, replay_interval_s, stage_of
from edge_agent.core.serving import GOLDEN_VECTOR
from edge_agent.core.state import ModelState
from edge_agent.runtime.channel import Header, PeerRefused
from edge_agent.runtime.executor import Executor
from edge_agent.runtime.pool import Pool, Worker
from edge_agent.runtime.tasks import Tasks

log = structlog.get_logger()

REPLAY_SHARE = 0.1  # of a worker's time at most goes into replaying, however much a watch asks for
SUSPICION_S = limits.CRASH_WINDOW_S  # after a disagreement the next workers are looked at as often as is allowed


class Replay:
    """Replays for all slots, each in a task of its own: a slow worker of one model holds up no other."""

    def __init__(
        self,
        config: Config,
        manifest_of: Callable[[str], Manifest | None],
        pool: Pool,
        executor: Executor,
        post: Callable[[ev.Event], object],
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._manifest_of = manifest_of
        self._pool = pool
        self._executor = executor
        self._post = post
        self._tasks = tasks

    def start(self, models: Iterable[str]) -> None:
        """Begin, for each of these slots, until the tasks are cancelled."""
        for model in models:
            self._tasks.spawn(SlotReplay(self, model).run(), name=f"replay-{model}")

    def state(self, model: str) -> ModelState:
        """The present state of a slot."""
        return self._executor.state(model)

    def loaded(self, model: str) -> list[Worker]:
        """The loaded workers of a slot."""
        return self._pool.loaded(model)

    async def wait_change(self, seen: int, timeout_s: float) -> int:
        """Return at the next change of any slot's state, or after timeout_s; the number of changes so far."""
        return await self._executor.wait_change(seen, timeout_s)

    @property
    def changes(self) -> int:
        """The number of changes of the slots' states so far."""
        return self._executor.changes

    @property
    def interval_s(self) -> float:
        """Seconds between two vectors of one worker in steady state."""
        return self._config.scrub.replay_interval_s

    async def replay(self, worker: Worker, number: int) -> float | None:
        """Run the golden vector of this number (counted round and round) through this worker; the seconds that it took
        there, or None when there is no good answer. What that says of the worker is done and posted here.
        """
        manifest = self._manifest_of(worker.digest)
        if manifest is None or worker.channel is None:
            return None
        vector = number % manifest.golden.count
        began_s = asyncio.get_running_loop().time()
        answer = await self._ask(worker, vector)
        if answer is None:
            return None
        took_s = asyncio.get_running_loop().time() - began_s
        proof = answer.get("proof", {})
        if not proof.get("passed"):
            self._condemn(worker, GOLDEN_VECTOR, "replay_disagrees", str(proof.get("detail", "")))
            return None
        return float(answer.get("elapsed_us", took_s * 1e6)) / 1e6  # the worker of an older version does not tell

    async def _ask(self, worker: Worker, vector: int) -> Header | None:
        """The worker's answer; None when there is none, which only a second silence makes a hang."""
        assert worker.channel is not None
        patience_s = self._config.serving.deadline_s
        try:
            return (await worker.channel.request("golden", timeout_s=patience_s, vector=vector))[0]
        except PeerRefused as refusal:
            log.warning("replay_refused", model=worker.model, worker=worker.worker_id, detail=refusal.text)
            return None
        except Unavailable:
            if worker.channel.closed:
                return None  # it died; whoever watches its process tells
        try:
            await worker.channel.request("stats", timeout_s=patience_s)
        except HoldfastError as error:
            if not worker.channel.closed:
                # named by the vector: two of them are two requests, one alone may be the machine's fault
                self._condemn(worker, f"{GOLDEN_VECTOR} {vector}", "worker_hung", error.message)
        return None

    def _condemn(self, worker: Worker, fingerprint: str, what: str, detail: str) -> None:
        if worker.ending or self._pool.condemn(worker.worker_id) is None:
            return
        log.error(
            what,
            model=worker.model,
            snapshot=worker.digest,
            worker=worker.worker_id,
            detail=detail,
            next_step="It is replaced from verified bytes; if this repeats, look at the device's memory",
        )
        self._post(ev.WorkerCrashed(worker.model, worker.digest, fingerprint))

    async def note(self, model: str, digest: str, took_s: float) -> None:
        """Count a replayed vector for the watch, and return once it is counted."""
        tally = Tally(synthetic=1, latencies=counted(latency_bucket(took_s)))
        with contextlib.suppress(Unavailable):  # a flood of events: one vector less was seen
            await self._executor.post(ev.Observed(model, digest, tally))


class SlotReplay:
    """The replays of one slot: when the next one is due, and which vector it is."""

    def __init__(self, replay: Replay, model: str) -> None:
        self._replay = replay
        self._model = model
        self._numbers: dict[str, int] = {}  # worker id -> the next vector's number; only of loaded workers
        self._steady_at_s = self._now_s() + replay.interval_s
        self._watched_at_s = 0.0
        self._live_seen = 0
        self._suspicious_until_s = 0.0

    async def run(self) -> None:
        """Replay what is due, until cancelled."""
        while True:  # one pass a change or a deadline; ends by cancellation
            seen = self._replay.changes
            state = self._replay.state(self._model)
            watch, candidate = state.watch, state.candidate
            interval_s = None
            if watch is not None and candidate is not None:
                interval_s = replay_interval_s(stage_of(state.rules, candidate.share_percent), watch)
            if watch is not None and interval_s is not None and self._now_s() >= self._watched_at_s:
                self._watched_at_s = await self._replay_watched(state, watch, interval_s)
            if self._now_s() >= self._steady_at_s:
                await self._replay_all()
            due_s = self._steady_at_s if interval_s is None else min(self._steady_at_s, self._watched_at_s)
            if due_s > self._now_s():
                await self._replay.wait_change(seen, due_s - self._now_s())

    async def _replay_watched(self, state: ModelState, watch: Watch, interval_s: float) -> float:
        """One vector through the candidate's worker, and one through what it is compared with; when the next are due.

        Beside live requests a vector every REPLAY_PAUSE_S has to do: those count too.
        """
        assert state.candidate is not None
        began_s = self._now_s()
        live = watch.candidate.answers + watch.candidate.compared
        busy, self._live_seen = live > self._live_seen, live
        for digest in (state.candidate.digest, state.candidate.previous):
            worker = next((one for one in self._replay.loaded(self._model) if one.digest == digest), None)
            took_s = await self._replay_next(worker) if worker else None
            if worker is not None and took_s is not None:
                await self._replay.note(self._model, worker.digest, took_s)
        pause_s = (self._now_s() - began_s) / REPLAY_SHARE
        return began_s + max(pause_s, interval_s, limits.REPLAY_PAUSE_S if busy else 0.0)

    async def _replay_all(self) -> None:
        """One vector through each loaded worker, the spare too: it may have to answer at any moment."""
        workers = self._replay.loaded(self._model)
        self._numbers = {one.worker_id: self._numbers.get(one.worker_id, 0) for one in workers}
        for worker in workers:
            await self._replay_next(worker)
        suspicious = self._now_s() < self._suspicious_until_s
        pause_s = min(self._replay.interval_s, limits.REPLAY_PAUSE_S) if suspicious else self._replay.interval_s
        self._steady_at_s = self._now_s() + pause_s

    async def _replay_next(self, worker: Worker) -> float | None:
        number = self._numbers.get(worker.worker_id, 0)
        self._numbers[worker.worker_id] = number + 1
        took_s = await self._replay.replay(worker, number)
        if worker.condemned:
            self._suspicious_until_s = self._now_s() + SUSPICION_S
        return took_s

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
