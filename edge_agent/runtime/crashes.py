"""Joins the two halves of a worker's death: how it ended (fork server) and which request it had (front).

Whether crashes speak against a snapshot is decided in `core`; here they are only made into facts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_agent.contract import limits
from edge_agent.core.blame import is_crash
from edge_agent.core.events import Event, WorkerCrashed
from edge_agent.runtime.pool import Worker
from edge_agent.runtime.tasks import Tasks


class CrashReporter:
    """Posts one WorkerCrashed per death by own fault, with the fingerprint of the request if the front knows one."""

    def __init__(self, post: Callable[[Event], object], tasks: Tasks) -> None:
        self._post = post
        self._tasks = tasks
        self._requests: dict[str, asyncio.Future[str]] = {}

    def died(self, worker: Worker, exit_code: int | None, signal_number: int | None) -> None:
        """The fork server's half."""
        if is_crash(exit_code, signal_number):
            self._tasks.spawn(self._tell(worker), name=f"crash-{worker.worker_id}")

    def lost_request(self, worker_id: str, fingerprint: str) -> None:
        """The front's half."""
        future = self._half(worker_id)
        if not future.done():
            future.set_result(fingerprint)

    def hung(self, worker: Worker, fingerprint: str) -> None:
        """A worker that had to be killed because it did not answer: its own fault as well."""
        self._post(WorkerCrashed(worker.model, worker.digest, fingerprint))

    async def _tell(self, worker: Worker) -> None:
        fingerprint = ""
        try:
            async with asyncio.timeout(limits.EXIT_STATUS_S):
                fingerprint = await asyncio.shield(self._half(worker.worker_id))
        except TimeoutError:
            fingerprint = ""  # it died without a request
        self._post(WorkerCrashed(worker.model, worker.digest, fingerprint))

    def _half(self, worker_id: str) -> asyncio.Future[str]:
        while len(self._requests) > limits.WORKERS_REMEMBERED_MAX:
            del self._requests[next(iter(self._requests))]
        return self._requests.setdefault(worker_id, asyncio.get_running_loop().create_future())
