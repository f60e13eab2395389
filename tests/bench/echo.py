"""A bare aiohttp server that answers with the body it was sent: what this machine's HTTP allows without a model.

Its settings are those of the front: uvloop, no access log. Prints its port as one line of JSON, ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop
from aiohttp import web

BODY_BYTES_MAX = 64 << 20


async def answer(request: web.Request) -> web.Response:
    """The body, back."""
    return web.Response(body=await request.read(), headers={"Content-Type": "application/octet-stream"})


async def serve() -> None:
    """Serve until the standard input ends."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/v2/models/{model}/infer", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve())
