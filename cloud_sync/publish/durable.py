"""Files that survive a power cut, and a lock between publishers; what is in the files is known elsewhere."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edge_agent.contract.errors import Unavailable


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path`, synced, when the block ends well; else nothing is left.

    Raises Unavailable when the file system refuses.
    """
    with writing(path.parent):
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with writing(path), os.fdopen(fd, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        with writing(path):
            Path(temporary).replace(path)
            sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by these bytes, durably. Raises Unavailable when the file system refuses."""
    with replacing(path, mode=mode) as stream:
        stream.write(content)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable: a rename alone may be lost with the power."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path, *, mode: int = 0o755) -> None:
    """The folder and its parents, if they are not there. Raises Unavailable when the file system refuses."""
    with writing(folder):
        folder.mkdir(mode=mode, parents=True, exist_ok=True)


@contextmanager
def locked(
    folder: Path, who: str = "publisher", next_step: str = "Wait until it has ended, then try again"
) -> Iterator[None]:
    """Keep others of this kind out of the folder; the lock ends with the process. Raises Unavailable."""
    with writing(folder):
        fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(f"another {who} is at work in {folder}", next_step=next_step) from error
        yield
    finally:
        os.close(fd)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate the file system's refusals (full, read-only, not ours)."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written: {error.strerror}",
            next_step="Check its permissions and the free space",
        ) from error
