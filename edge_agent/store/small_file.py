"""One small file beside the databases, written whole or not at all. What it says is the caller's matter."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edge_agent.store.sqlite import sync_folder, translated

NEW_SUFFIX = ".new"


def write_small_file(path: Path, raw: bytes) -> None:
    """The file has these bytes, and will after a power cut. Raises Unavailable (disk_full, read_only)."""
    new = path.with_name(path.name + NEW_SUFFIX)
    with translated(path.name):
        with new.open("wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        if path.is_dir():  # damage: a file cannot take its place
            shutil.rmtree(path)
        new.replace(path)
        sync_folder(path.parent)


def read_small_file(path: Path, bytes_max: int) -> bytes | None:
    """The bytes; None when the file is missing, larger than bytes_max or not readable."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(bytes_max + 1)
    except OSError:
        return None
    return raw if len(raw) <= bytes_max else None
