"""The running coordinator: its parts put together, started, and ended in order. Each part's work is its own matter."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from cloud_sync import limits
from cloud_sync.api.app import Api
from cloud_sync.api.parts import PartsOverHttp
from cloud_sync.api.uploads import Uploads, note_snapshots
from cloud_sync.coordinator.conversation import Conversation
from cloud_sync.coordinator.documents import VERSION
from cloud_sync.coordinator.handout import Handout
from cloud_sync.coordinator.intents import Intents
from cloud_sync.coordinator.memory import Memory
from cloud_sync.coordinator.metrics import Metrics
from cloud_sync.coordinator.planner import Planner
from cloud_sync.folder import DataFolder
from cloud_sync.mqtt.line import Line
from cloud_sync.mqtt.parts import Parts
from cloud_sync.mqtt.settings import BrokerSettings
from cloud_sync.publish.durable import write_file
from cloud_sync.publish.repository import Repository
from cloud_sync.repository.catalog import EMPTY, Catalog, read_catalog
from cloud_sync.repository.intake import Intake
from cloud_sync.repository.shelf import Shelf
from cloud_sync.signing import Signer
from cloud_sync.store.database import Database
from edge_agent.contract.errors import Corrupt, HoldfastError, Unavailable

log = structlog.get_logger()


async def serve(folder: DataFolder, broker: BrokerSettings, http: tuple[str, int]) -> None:
    """Run until SIGTERM or SIGINT. Raises Unavailable or Corrupt when it cannot start; our own bugs end it."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with folder.alone():
        signer = Signer.load(folder.key)
        token = folder.read(folder.token).decode().strip()
        pinned = folder.read(folder.root)
        database = await asyncio.to_thread(Database, folder.database)
        try:
            memory = Memory(database, signer)
            await memory.load()
            memory.catalog = await asyncio.to_thread(_catalog, Repository(folder.repository), pinned)
            await note_snapshots(memory)
            await _serve(folder, broker, http, memory, token, pinned, stop)
        finally:
            await database.close()


async def _serve(
    folder: DataFolder,
    broker: BrokerSettings,
    http: tuple[str, int],
    memory: Memory,
    token: str,
    pinned: bytes,
    stop: asyncio.Event,
) -> None:
    metrics, planner, repository = Metrics(), Planner(memory), Repository(folder.repository)
    conversation = Conversation(memory, planner, metrics)
    handout = Handout(memory, Shelf(repository), metrics)
    parts = Parts(handout)
    line = Line(broker, memory, conversation, planner, parts, metrics)
    planner.outbound, conversation.acknowledge = line, line.acknowledge
    uploads = Uploads(memory, planner, Intake(repository, folder.waiting, pinned))
    over_http = PartsOverHttp(handout, signer=memory.signer)
    api = Api(memory, planner, Intents(memory, planner), metrics, (*uploads.routes(), *over_http.routes()), token)
    parts_of_it = (planner.run(), line.run(), parts.run(), _write_now_and_then(memory))
    work = [asyncio.create_task(one) for one in parts_of_it]
    stopping = asyncio.create_task(stop.wait())
    try:
        async with _listening(api.application(), http) as url:
            write_file(folder.endpoint, json.dumps({"url": url, "pid": os.getpid()}).encode() + b"\n")
            log.info("started", url=url, version=VERSION, devices=len(memory.records), rollouts=len(memory.rollouts))
            ended, _ = await asyncio.wait([stopping, *work], return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping")
            folder.endpoint.unlink(missing_ok=True)
        for task in ended:
            task.result()  # a part that ended by itself is a bug: its error ends the process
    finally:  # after the last request: what it led to has been published
        for task in (stopping, *work):
            task.cancel()
        await asyncio.gather(stopping, *work, return_exceptions=True)
    try:
        await memory.write()
    except HoldfastError as error:
        log.error("last_words_not_written", error=str(error))
    log.info("stopped")


@asynccontextmanager
async def _listening(app: web.Application, http: tuple[str, int]) -> AsyncIterator[str]:
    """Listen; gives the URL. Requests under way are finished at the end. Raises Unavailable."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=limits.STOP_REQUESTS_S)
    await runner.setup()
    host, port = http
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {host}:{port}: {error.strerror}", next_step="Name a free one with --http HOST:PORT"
            ) from error
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _catalog(repository: Repository, pinned: bytes) -> Catalog:
    """What the repository holds; one that is damaged or empty does not keep the coordinator from taking an upload."""
    if not (repository.folder / "metadata" / "timestamp.json").is_file():
        return EMPTY
    try:
        return read_catalog(repository, pinned)
    except Corrupt as error:
        log.error("repository_damaged", error=str(error))
        return EMPTY


async def _write_now_and_then(memory: Memory) -> None:
    while True:  # until cancelled
        await asyncio.sleep(limits.STATES_WRITE_S)
        try:
            await memory.write()
        except HoldfastError as error:
            log.error("devices_not_written", error=str(error))
