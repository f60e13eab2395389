"""HTTP to compare the line with: a server of one folder, and a client that writes to the disk what it gets.

`python -m tests.bench.copying serve FOLDER` prints its port and ends with its input;
`python -m tests.bench.copying get URL FILE PIECE_BYTES` prints the seconds: one GET and one fsync at the end (0), or a
ranged GET and an fsync for each piece, as a device's store commits chunk by chunk.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import aiohttp
from aiohttp import web

READ_BYTES = 1 << 18


async def serve(folder: Path) -> None:
    """Serve its files until the standard input ends."""
    app = web.Application()
    app.router.add_static("/", folder)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    await ended.wait()
    await runner.cleanup()


async def get(url: str, file: Path, piece_bytes: int) -> float:
    """Fetch a file, one request after the other on one connection; the seconds until the disk has it."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        started_s = time.monotonic()
        with file.open("wb") as stream:
            at, total = 0, 1
            while at < total:  # bounded by the file's length
                wanted = {"Range": f"bytes={at}-{at + piece_bytes - 1}"} if piece_bytes else {}
                async with session.get(url, headers=wanted) as answer:
                    total = int(
                        answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.headers["Content-Length"]
                    )
                    async for data in answer.content.iter_chunked(READ_BYTES):
                        at += stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        return time.monotonic() - started_s


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        took_s = asyncio.run(get(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
        print(json.dumps({"seconds": took_s}), flush=True)
