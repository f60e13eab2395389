"""Start of the sync process: the runtime's arguments, and the parts put together. What they do is said in their files.

It may be ended at any moment, so it ends by leaving: the broker then says its last will at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import structlog

from edge_agent.contract import topics
from edge_agent.contract.errors import HoldfastError
from edge_agent.logs import set_up_logs
from edge_agent.sync.fetching import Fetcher
from edge_agent.sync.http_source import HttpSource, Server
from edge_agent.sync.line import RECONNECT_CAP_S, Broker, Line
from edge_agent.sync.link import RuntimeLink
from edge_agent.sync.metadata import MetadataKeeper
from edge_agent.sync.offers import Offers
from edge_agent.sync.requests import MqttSource
from edge_agent.sync.talk import Signals, Talk
from edge_agent.sync.tally import Tally
from edge_agent.sync.ways import Ways

log = structlog.get_logger()


class LinkTeller:
    """Tells the runtime whether the broker is reached, the newest word only."""

    def __init__(self, link: RuntimeLink) -> None:
        self._link = link
        self._word = (False, "not connected yet")
        self._changed = asyncio.Event()

    def note(self, connected: bool, detail: str) -> None:
        """The line is up or down."""
        self._word = (connected, detail)
        self._changed.set()

    async def run(self) -> None:
        """Tell each change, and again to a runtime that came back."""
        while True:  # as long as the process lives; each pass tells one change
            await self._changed.wait()
            self._changed.clear()
            connected, detail = self._word
            try:
                await self._link.ask_patiently("link", connected=connected, detail=detail)
            except HoldfastError as error:
                log.warning("link_not_told", detail=str(error))


async def run(options: argparse.Namespace) -> int:
    """Sync until the runtime is gone for good. The exit code: 0 orphaned."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _leave, 0)
    _leave_with(options.runtime_pid)
    tally = Tally()
    link = RuntimeLink(Path(options.socket))
    signals = Signals(asyncio.Event(), asyncio.Event(), asyncio.Event())
    teller = LinkTeller(link)

    async def publish(channel: topics.Channel, payload: bytes, *, correlation: bytes = b"") -> None:
        await line.publish(channel, payload, correlation=correlation)

    def on_link(connected: bool, detail: str) -> None:
        teller.note(connected, detail)
        ways.note_line(connected)
        if connected:
            keeper.want()

    def on_fault(fault: str) -> None:
        if line.up.is_set():
            teller.note(True, f"the signed metadata is not fresh: {fault}" if fault else "")

    source = MqttSource(publish, tally)
    ways = Ways(_http(options), source)
    fetcher = Fetcher(ways)
    talk = Talk(link, signals, tally, lambda: offers.forgive(), lambda: keeper.want_soon())
    line = talk.line = Line(
        _broker(options),
        options.device_id,
        tally,
        {
            topics.ASSIGNMENT.name: talk.assignments.note,
            topics.ACK.name: talk.acks.note,
            topics.GOT.name: source.take,
            topics.COORDINATOR.name: talk.on_coordinator_here,
        },
        on_link,
    )
    keeper = MetadataKeeper(
        link, fetcher, ways.open, talk.assignments.try_again, on_fault, link.folder / "sync-metadata"
    )
    offers = Offers(link, fetcher, keeper, ways.open)
    signals.wants = offers.changed

    async def converse(connection_id: str) -> None:
        try:
            await talk.converse(connection_id)
        finally:
            source.cut()

    async with asyncio.TaskGroup() as group:
        for coroutine in (
            line.run(talk.will, converse), talk.watch_runtime(), talk.assignments.run(), talk.acks.run(),
            teller.run(), keeper.run(), offers.run(),
        ):  # fmt: skip
            group.create_task(coroutine)
        await link.until_orphaned(options.orphan_s)
        _leave(0)
    return 1  # not reached: a task that fails raises, and no task ends


def main() -> int:
    """Parse the runtime's arguments and sync."""
    parser = argparse.ArgumentParser(prog="holdfast-sync")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--device-id", required=True)
    parser.add_argument("--username", required=True)
    for name in ("--password-file", "--ca-file", "--cert-file", "--key-file", "--http", "--http-token-file"):
        parser.add_argument(name)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--orphan-s", type=float, default=120.0)
    parser.add_argument("--reconnect-cap-s", type=float, default=RECONNECT_CAP_S)
    parser.add_argument("--runtime-pid", type=int)
    options = parser.parse_args()
    set_up_logs(options.log_level, process="sync", device_id=options.device_id)
    try:
        # asyncio's own loop: paho opens its socket in a thread, where uvloop takes no reader, and a cut goes unnoticed.
        return asyncio.run(run(options))
    except Exception:  # our bug: the runtime starts another process, and no thread of this one is waited for
        log.exception("sync_failed")
        _leave(1)


def _broker(options: argparse.Namespace) -> Broker:
    host, _, port = options.broker.rpartition(":")
    return Broker(
        host.strip("[]"), int(port), options.username, options.password_file, options.ca_file, options.cert_file,
        options.key_file, options.reconnect_cap_s,
    )  # fmt: skip


def _http(options: argparse.Namespace) -> HttpSource | None:
    if options.http is None:
        return None
    server = Server(options.http.rstrip("/"), options.device_id, options.http_token_file, options.ca_file)
    return HttpSource(server)


def _leave_with(runtime_pid: int | None) -> None:
    """The next runtime starts a process of its own, which speaks with our name: end with the one that started us."""
    if runtime_pid is None:
        return
    try:
        pidfd = os.pidfd_open(runtime_pid)
    except ProcessLookupError:
        _leave(0)
    asyncio.get_running_loop().add_reader(pidfd, _leave, 0)


def _leave(code: int) -> NoReturn:
    """End at once: threads that wait for a broker or for python-tuf hold nothing up, and nothing has to be saved."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
