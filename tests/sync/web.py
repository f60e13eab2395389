"""The coordinator's HTTP as a small server of the tests: it has what the scripted coordinator has, and can fail.

The real one is in cloud_sync.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from aiohttp import web

from edge_agent.contract.transfer import STATUS_HEADER, TOTAL_BYTES_HEADER, Get, Kind, parts_path
from tests.harness.agent import wait_until
from tests.harness.broker import HOST
from tests.sync.coordinator import ScriptedCoordinator, Thing
from tests.sync.runtime import DEVICE

TOKEN = "the-token-of-this-device"
Fault = Callable[[Get], web.StreamResponse | None]


@dataclass
class Shelf:
    """What there is, where no scripted coordinator is needed."""

    things: dict[Thing, bytes]


class HttpCoordinator:
    """Listens while in its `with` block. What was asked is in `asked`, what was answered with bytes in `served`.

    fault: what to answer instead, None = as it should be. cut: how many bytes of a body go out before the connection
    ends (silent: before nothing more comes), None = all.
    """

    def __init__(self, things: ScriptedCoordinator | Shelf, tls: ssl.SSLContext | None = None) -> None:
        self.fault: Fault = lambda _get: None
        self.cut: Callable[[Get], int | None] = lambda _get: None
        self.open = threading.Event()
        self.open.set()
        self.silent = False
        self.asked: list[Get] = []
        self.served: list[Get] = []
        self._things = things
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> HttpCoordinator:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.set()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def asked_for(self, kind: Kind) -> list[Get]:
        """Questions of this kind, in order."""
        return [get for get in self.asked if get.kind is kind]

    async def _listen(self) -> str:
        app = web.Application()
        app.add_routes([web.get(parts_path(DEVICE, "{kind}", "{name}"), self._part)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0, ssl_context=self._tls).start()
        return f"http{'s' if self._tls else ''}://{HOST}:{self._runner.addresses[0][1]}"

    async def _part(self, request: web.Request) -> web.StreamResponse:
        get = Get(
            Kind(request.match_info["kind"]),
            request.match_info["name"],
            int(request.query["offset"]),
            int(request.query["length"]),
        )
        self.asked.append(get)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        await asyncio.to_thread(self.open.wait)
        fault = self.fault(get)
        if fault is not None:
            return fault
        whole = self._things.things.get((get.kind, get.name))
        if whole is None:
            return web.Response(status=404, headers={STATUS_HEADER: "404"})
        part = whole[get.offset : get.offset + get.length]
        response = web.StreamResponse(headers={STATUS_HEADER: "200", TOTAL_BYTES_HEADER: str(len(whole))})
        response.content_length = len(part)
        await response.prepare(request)
        cut = self.cut(get)
        await response.write(part[:cut])
        if cut is None:
            self.served.append(get)
            await response.write_eof()
        elif request.transport is not None:
            self.served.append(Get(get.kind, get.name, get.offset, cut))
            if self.silent:
                await asyncio.Event().wait()  # until the client hangs up
            request.transport.close()
        return response


def wait_asked(server: HttpCoordinator, kind: Kind) -> None:
    """Return once something of this kind was asked for."""
    wait_until(lambda: server.asked_for(kind), f"a {kind} is asked for over HTTP")
