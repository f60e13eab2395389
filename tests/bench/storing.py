"""A snapshot of 100 MB into the store, against the same bytes into one file with an fsync: time, and bytes written.

`python -m tests.bench.storing store|file FOLDER` does it once in a process of its own, whose bytes the kernel counts,
and prints a JSON document.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from edge_agent.store.models_db import ModelsDb
from tests.bench.children import Child
from tests.bench.figures import Results
from tests.harness.agent import ShortFolder
from tests.store.snapshots import Content, content, offer

NAME = "a snapshot of 100 MB"
CHUNKS = 100  # of 1 MiB


def measure(results: Results, *, rounds: int) -> None:
    """Both, in turns."""
    for _ in range(rounds):
        told: dict[str, dict[str, Any]] = {}
        for how in ("file", "store"):
            with ShortFolder() as folder, Child("tests.bench.storing", how, str(folder)) as child:
                told[how] = child.document()
        file, store = told["file"], told["store"]
        results.add(NAME, "one file and one fsync", "ms", file["took_s"] * 1e3)
        results.add(NAME, "into the store", "ms", store["took_s"] * 1e3, to="the file", other=file["took_s"] * 1e3)
        written = store["written_bytes"] / 1e6
        results.add(NAME, "  bytes written to disk", "MB", written, to="the file", other=file["written_bytes"] / 1e6)


def into_file(folder: Path, snapshot: Content, chunks: dict[str, bytes]) -> None:
    """As a program without a store would do it."""
    with (folder / "model").open("wb") as stream:
        for data in chunks.values():
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def into_store(folder: Path, snapshot: Content, chunks: dict[str, bytes]) -> None:
    """As the runtime does it: offered, chunk by chunk, each hashed and committed, then made visible."""
    models = ModelsDb(folder / "models.db")
    offer(models, snapshot)
    for sha256, data in chunks.items():
        models.put_chunk(sha256, data)
    models.admit(snapshot.digest, snapshot.manifest, 1)
    models.close()


def written_bytes() -> int:
    """What this process has caused to be written to disks so far (proc(5), io)."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["write_bytes"])


def main() -> int:
    """Once."""
    how, folder = {"file": into_file, "store": into_store}[sys.argv[1]], Path(sys.argv[2])
    snapshot = content(chunks=CHUNKS)
    chunks = snapshot.chunks()
    before_bytes, started_s = written_bytes(), time.monotonic()
    how(folder, snapshot, chunks)
    took_s = time.monotonic() - started_s
    print(json.dumps({"took_s": took_s, "written_bytes": written_bytes() - before_bytes}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
