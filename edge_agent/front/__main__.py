"""Start of the front process: the listening socket is inherited, so that its restart loses no connection."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path

import structlog
from aiohttp import web

from edge_agent.contract import limits
from edge_agent.front.connections import ConnectionServer, raise_descriptor_limit
from edge_agent.front.control import ControlServer
from edge_agent.front.dispatch import Bounds, Dispatcher
from edge_agent.front.http import HttpFace
from edge_agent.front.metrics import FrontMetrics
from edge_agent.logs import set_up_logs

log = structlog.get_logger()

KEEPALIVE_S = 75.0  # a connection without a request, from its first byte on
LINGER_S = 1.0  # the rest of a refused body is read so long, that its sender may see the answer
DRAIN_S = 5.0  # requests that are being computed when a stop is asked for
LAST_ANSWERS_S = 2.0  # answers that a client is slow to take


async def serve(options: argparse.Namespace) -> None:
    """Serve until asked to stop, or orphaned."""
    listener = socket.socket(fileno=options.listen_fd)
    metrics = FrontMetrics()
    control = ControlServer(listener, metrics, options.orphan_timeout_s)
    bounds = Bounds(options.hold_s, options.deadline_s, options.queue_max, options.body_bytes_max)
    dispatcher = Dispatcher(bounds, metrics, control.tell)
    control.dispatcher = dispatcher
    runner = web.AppRunner(HttpFace(dispatcher, bounds, metrics, options.device_id).application())
    await runner.setup()
    assert runner.server is not None
    clients = ConnectionServer(
        runner.server, raise_descriptor_limit(), access_log=None, keepalive_timeout=KEEPALIVE_S, lingering_time=LINGER_S
    )
    await control.start(Path(options.socket))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, control.stop)
    tasks = [asyncio.create_task(dispatcher.run()), asyncio.create_task(control.end_when_orphaned())]

    def end_if_failed(task: asyncio.Task[None]) -> None:
        """Without passing time no deadline holds: the runtime starts another front."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("front_failed", exc_info=error)
            control.stop()

    for task in tasks:
        task.add_done_callback(end_if_failed)
    await control.routed.wait()  # until then clients wait in the kernel: nobody is told that there is no model
    listening = await asyncio.get_running_loop().create_server(
        clients, sock=listener.dup(), backlog=limits.LISTEN_BACKLOG
    )
    await control.stopping.wait()
    listening.close()
    clients.pre_shutdown()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await dispatcher.idle()
    dispatcher.end()
    await clients.shutdown(LAST_ANSWERS_S)
    for task in tasks:
        task.cancel()
    await control.end(LAST_ANSWERS_S)
    await runner.cleanup()


def main() -> int:
    """Parse the runtime's arguments and serve."""
    parser = argparse.ArgumentParser(prog="holdfast-front")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--orphan-timeout-s", type=float, default=120.0)
    parser.add_argument("--hold-s", type=float, default=2.0)
    parser.add_argument("--deadline-s", type=float, default=30.0)
    parser.add_argument("--queue-max", type=int, default=256)
    parser.add_argument("--body-bytes-max", type=int, default=64 << 20)
    parser.add_argument("--device-id", default="device")
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    set_up_logs(options.log_level, process="front", device_id=options.device_id)
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
