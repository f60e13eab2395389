"""The front as the runtime sees it: started, adopted, told where requests go, and restarted.

Requests never pass here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from edge_agent.config import Config
from edge_agent.contract import limits
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.manifest import Manifest
from edge_agent.contract.tally import Tally
from edge_agent.core import events as ev
from edge_agent.core.actions import Route, Share
from edge_agent.core.backoff import Deaths, respawn_delay_s, with_death
from edge_agent.runtime.channel import Channel, Header, PeerRefused, connect_when_up
from edge_agent.runtime.pool import Worker
from edge_agent.runtime.process import ProcessHandle, start
from edge_agent.runtime.tasks import Tasks

log = structlog.get_logger()


class Listeners(Protocol):
    """Who wants to know what the front says."""

    def lost_request(self, worker_id: str, fingerprint: str) -> None:
        """A worker ended with this request in flight."""

    def hung_request(self, worker_id: str, fingerprint: str) -> None:
        """A worker did not answer this request in time."""

    def poison(self, model: str, digest: str, fingerprint: str) -> None:
        """A request ended two workers and was answered with an error."""


class FrontLink:
    """The one front of this device (more of them on one port come later)."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        generation: int,
        manifest_of: Callable[[str], Manifest | None],
        workers_of: Callable[[str, str], list[Worker]],
        post: Callable[[ev.Event], object],
        tasks: Tasks,
    ) -> None:
        self.listeners: Listeners | None = None
        self.gauges: Callable[[], dict[str, float]] = dict
        self._config = config
        self._run_dir = run_dir
        self._generation = generation
        self._manifest_of = manifest_of
        self._workers_of = workers_of
        self._post = post
        self._tasks = tasks
        self._routes: dict[str, Route] = {model: Route(model, None, None) for model in config.models}
        self._told: dict[str, str] = {}
        self._at_front_now: dict[str, str] = {}  # like `_told`, but known while the same is said again
        self._shares_told: dict[str, tuple[str, int]] = {}
        self._sequence = 0
        self._dirty = asyncio.Event()
        self._at_front: set[str] = set()
        self._released: dict[str, asyncio.Event] = {}
        self._channel: Channel | None = None
        self._process: ProcessHandle | None = None
        self._listener: socket.socket | None = None
        self._deaths: Deaths = ()
        self.ending = False
        self.address = ""

    @property
    def pid(self) -> int | None:
        """The front's process id, None while there is none."""
        return self._process.pid if self._process and self._channel else None

    def routed(self, model: str) -> str | None:
        """The snapshot to which the front has said that requests go."""
        return self._at_front_now.get(model)

    # ---- what the core and the pool say

    def set_route(self, route: Route) -> None:
        """Requests for this model go to these snapshots' workers."""
        self._routes[route.model] = route
        if self._at_front_now.get(route.model) != route.digest:
            self._at_front_now.pop(route.model, None)
        self._told.pop(route.model, None)
        self._shares_told.pop(route.model, None)
        self._dirty.set()

    def workers_changed(self, model: str) -> None:
        """The loaded workers of this model are others now."""
        self._dirty.set()

    async def released(self, worker_id: str) -> None:
        """Return once the front has no request at this worker any more, or after the longest request."""
        if worker_id not in self._at_front or self._channel is None:
            return
        released = self._released.setdefault(worker_id, asyncio.Event())
        self._dirty.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.serving.deadline_s + limits.WORKER_END_S):
                await released.wait()
        self._released.pop(worker_id, None)

    # ---- the process

    def bind(self) -> None:
        """Take the port before anything else. Raises Rejected when it is taken or not ours to take."""
        host, port = self._config.listen_address()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(limits.LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            raise Rejected(
                f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}",
                next_step="End what uses that port (`ss -ltnp`), or set another [serving] http in agent.toml",
            ) from error
        self._use_listener(listener)

    async def adopt(self, channel: Channel, process: ProcessHandle) -> bool:
        """Take back the front of an earlier runtime, with its listening socket; False when it does not hand it over."""
        try:
            await channel.request("listener", timeout_s=limits.FRONT_REQUEST_S)
        except HoldfastError:
            return False
        fds = channel.take_fds()
        if len(fds) != 1:
            return False
        self._use_listener(socket.socket(fileno=fds[0]))
        self._attach(channel, process)
        return True

    async def run(self) -> None:
        """Keep a front running and its routes current, until cancelled."""
        while not self.ending:  # one pass a change; ends by cancellation too
            if self._channel is None:
                await asyncio.sleep(respawn_delay_s(self._deaths, asyncio.get_running_loop().time()))
                await self._start()
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._push()
            except HoldfastError as error:
                log.warning("front_did_not_follow", detail=error.message)
                await asyncio.sleep(limits.FRONT_PAUSE_S)
                self._dirty.set()

    async def end(self) -> None:
        """Graceful stop: the front finishes what it has, then ends."""
        self.ending = True
        if self._channel and self._process:
            with contextlib.suppress(HoldfastError):
                await self._channel.request("exit", timeout_s=limits.FRONT_REQUEST_S)
            await self._process.end(limits.FRONT_END_S)
        if self._listener:
            self._listener.close()

    def _use_listener(self, listener: socket.socket) -> None:
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.address = f"{host}:{port}"

    async def _start(self) -> None:
        path = self._run_dir / "front-0.sock"
        path.unlink(missing_ok=True)
        if self._listener is None or self.ending:
            return
        serving = self._config.serving
        command = [
            sys.executable, "-m", "edge_agent.front",
            "--socket", str(path),
            "--listen-fd", str(self._listener.fileno()),
            "--orphan-timeout-s", str(self._config.limits.orphan_s),
            "--hold-s", str(serving.hold_s),
            "--deadline-s", str(serving.deadline_s),
            "--queue-max", str(serving.queue_max),
            "--body-bytes-max", str(serving.body_bytes_max),
            "--device-id", self._config.device_id,
            "--log-level", self._config.log_level,
        ]  # fmt: skip
        process: ProcessHandle | None = None
        try:
            process = start(command, pass_fds=[self._listener.fileno()], folder=self._run_dir, on_exit=lambda: None)
            channel = await connect_when_up(path, process, self._on_event, self.forget, timeout_s=limits.FRONT_START_S)
            await channel.request("hello", timeout_s=limits.FRONT_START_S, role="control", generation=self._generation)
        except asyncio.CancelledError:
            if process:
                process.kill()  # nobody knows of it yet, and it would keep the port
            raise
        except (HoldfastError, OSError) as error:
            if process:
                process.kill()
            self._note_death()
            self._dirty.set()  # once more, after the pause that the deaths ask for
            log.error("front_did_not_start", detail=str(error))
            return
        self._attach(channel, process)
        log.info("front_up", pid=process.pid, http=self.address)

    def _attach(self, channel: Channel, process: ProcessHandle) -> None:
        self._channel = channel
        self._process = process
        self._dirty.set()
        self._tasks.spawn(self._watch(channel), name="front-watch")

    async def _watch(self, channel: Channel) -> None:
        """A front that hangs keeps the port and answers nobody: leave it, which ends it and starts another one."""
        missed = 0
        while not channel.closed:  # one pass a ping
            began_s = asyncio.get_running_loop().time()
            try:
                await channel.request("ping", timeout_s=limits.FRONT_PING_S)
                missed = 0
            except PeerRefused:
                missed = 0  # the front of an older version, taken back: it does not know the word, and runs
            except Unavailable:
                missed += 1
            if missed >= limits.FRONT_PINGS_MISSED_MAX and not channel.closed:
                log.error("front_hung", pings_missed=missed, next_step="Another one is started: nothing to do")
                channel.close()
            await asyncio.sleep(max(0.0, began_s + limits.FRONT_PING_S - asyncio.get_running_loop().time()))

    def forget(self, channel: Channel) -> None:
        """The connection to the front is gone: it is ended for good and another one takes its place."""
        if channel is not self._channel:
            return
        if self._process:
            self._process.kill()
        self._channel = None
        self._at_front.clear()
        self._told.clear()
        self._at_front_now.clear()
        self._shares_told.clear()
        for released in self._released.values():
            released.set()
        if not self.ending:
            log.warning("front_died")
            self._note_death()
            self._dirty.set()

    def _on_event(self, header: Header) -> None:
        event, worker_id = header.get("event"), str(header.get("worker_id"))
        fingerprint = str(header.get("request_fingerprint", ""))[: limits.DETAIL_CHARS_MAX]
        if event == "released":
            self._at_front.discard(worker_id)
            if worker_id in self._released:
                self._released[worker_id].set()
        elif event == "worker_lost" and self.listeners:
            self._at_front.discard(worker_id)
            self.listeners.lost_request(worker_id, fingerprint)
        elif event == "worker_hung" and self.listeners:
            self.listeners.hung_request(worker_id, fingerprint)
        elif event == "observed":
            self._observed(header)
        elif event == "poison":
            log.warning(
                "poison_request",
                model=header.get("model"),
                snapshot=header.get("digest"),
                request=fingerprint,
            )
            if self.listeners:
                self.listeners.poison(str(header.get("model")), str(header.get("digest")), fingerprint)

    def _observed(self, header: Header) -> None:
        """Counted answers; what cannot be believed is dropped, which only makes a trial longer."""
        model = str(header.get("model"))
        try:
            tally = msgspec.convert(header.get("tally"), Tally, strict=True)
        except msgspec.ValidationError as error:
            log.warning("counts_malformed", model=model, detail=str(error))
            return
        if model in self._routes:
            self._post(ev.Observed(model, str(header.get("digest")), tally))

    on_event = _on_event  # an adopted front's channel is made before it is known to be a front

    async def _push(self) -> None:
        channel = self._channel
        if channel is None:
            return
        self._sequence += 1
        models = {model: self._route_document(model) for model in self._routes}
        routed = {model: str(doc["digest"]) for model, doc in models.items() if doc["workers"]}
        await channel.request(
            "routes",
            timeout_s=limits.FRONT_REQUEST_S,
            sequence=self._sequence,
            models=models,
            gauges=self.gauges(),
        )
        shares = {model: doc["share"] for model, doc in models.items() if doc.get("share") and doc["share"]["workers"]}
        for document in (*models.values(), *shares.values()):
            self._at_front |= {str(worker["worker_id"]) for worker in document["workers"]}
        self._at_front_now |= routed
        for model, digest in routed.items():
            if self._told.get(model) != digest:
                self._told[model] = digest
                self._post(ev.Routed(model, digest))
        for model, share in shares.items():
            key = (str(share["digest"]), int(share["percent"]))
            if self._shares_told.get(model) != key:
                self._shares_told[model] = key
                self._post(ev.TrialRouted(model, *key))

    def _route_document(self, model: str) -> dict[str, Any]:
        route = self._routes[model]
        digest, reason = route.digest, route.reason
        manifest = self._manifest_of(digest) if digest else None
        if digest is None or manifest is None:
            return {
                "state": "down",
                "reason": reason.value if reason else None,
                "digest": None,
                "workers": [],
            }
        workers = self._workers_of(model, digest)
        return {
            "watched": route.watched,
            "share": self._share_document(model, route.share),
            "state": "serving" if workers else "loading",
            "reason": reason.value if reason else None,
            "version": manifest.version,
            "digest": digest,
            "inputs": _tensors(manifest.inputs),
            "outputs": _tensors(manifest.outputs),
            "workers": _addresses(workers),
        }

    def _share_document(self, model: str, share: Share | None) -> dict[str, Any] | None:
        """The candidate that gets copies (percent 0) or so many percent of the requests."""
        manifest = self._manifest_of(share.digest) if share else None
        if share is None or manifest is None:
            return None
        return {
            "percent": share.percent,
            "version": manifest.version,
            "digest": share.digest,
            "inputs": _tensors(manifest.inputs),
            "outputs": _tensors(manifest.outputs),
            "workers": _addresses(self._workers_of(model, share.digest)),
        }

    def _note_death(self) -> None:
        self._deaths = with_death(self._deaths, asyncio.get_running_loop().time())


def _addresses(workers: Iterable[Worker]) -> list[dict[str, str]]:
    return [{"worker_id": worker.worker_id, "socket": str(worker.socket)} for worker in workers]


def _tensors(specs: Iterable[Any]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]
