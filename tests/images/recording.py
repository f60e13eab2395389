"""The calls by which a process changed one folder, recorded by strace: SQLite's as well as our own, as the kernel got
them.

What they leave on a disk is `disk`'s. Shared memory of a WAL (-shm) is left out: it is made anew after a power cut.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.harness.agent import ROOT
from tests.images.disk import Call, Open, Rename, Resize, Sync, Unlink, Word, Write

CALLS = (
    "openat,open,creat,write,writev,pwrite64,pwritev,ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,"
    "rename,renameat,renameat2,unlink,unlinkat,link,linkat"
)
STRING_BYTES_MAX = 16 << 20  # more than any write: none may be cut off in the recording
BROUGHT = ROOT / ".strace" / "strace"
WITHOUT_STRACE = "strace cannot record a process here ({}): install it (apt-get install strace), or run make setup"

_LINE = re.compile(r"^(?P<thread>\d+) +(?P<rest>.*)$", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)(?:<(?P<opened>[^>]*)>)?", re.DOTALL)
_FD = re.compile(r"^(?P<fd>\d+)<(?P<path>[^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def find_strace() -> tuple[str | None, str]:
    """strace that may record here, or why there is none."""
    why = "there is none"
    for candidate in (os.environ.get("HOLDFAST_STRACE"), shutil.which("strace"), str(BROUGHT)):
        if candidate and os.access(candidate, os.X_OK):
            tried = subprocess.run([candidate, "-f", "-o", "/dev/null", "true"], capture_output=True, text=True)
            if tried.returncode == 0:
                return candidate, ""
            why = (tried.stderr.strip().splitlines() or ["it fails"])[-1]
    return None, WITHOUT_STRACE.format(why)


def record(strace: str, command: Sequence[str], folder: Path, words_file: Path, log: Path) -> list[Call]:
    """Run this to its end; every call that changed `folder` (itself, not folders in it), and the words between them.

    Raises AssertionError when the command fails, or does what the recording does not know.
    """
    traced = [
        strace,
        "-f",
        "-qq",
        "-y",
        "-xx",
        "-s",
        str(STRING_BYTES_MAX),
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
    ]
    done = subprocess.run([*traced, "-o", str(log), *command], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    with log.open() as lines:
        return list(_Parser(folder, words_file).calls(lines))


class _Parser:
    """Lines of strace into calls. A call that another thread interrupts in the log counts where it ended."""

    def __init__(self, folder: Path, words_file: Path) -> None:
        self._folder = str(folder)
        self._words_file = str(words_file)
        self._handles: dict[int, int] = {}
        self._positions: dict[int, int] = {}
        self._opened = 0

    def calls(self, lines: Iterator[str]) -> Iterator[Call]:
        begun: dict[str, str] = {}
        for line in lines:
            match = _LINE.match(line.rstrip("\n"))
            assert match, line[:200]
            thread, rest = match["thread"], match["rest"]
            if rest.endswith(_UNFINISHED):
                begun[thread] = rest.removesuffix(_UNFINISHED)
                continue
            if rest.startswith("<..."):
                rest = begun.pop(thread) + _RESUMED.sub("", rest)
            call = _CALL.match(rest)
            if call and int(call["result"]) >= 0:
                yield from self._call(call["name"], call["arguments"], int(call["result"]), call["opened"])

    def _call(self, name: str, arguments: str, result: int, opened: str | None) -> Iterator[Call]:
        if name in ("openat", "open", "creat"):
            yield from self._open(arguments, result, _text(opened or ""))
        elif name.startswith(("rename", "unlink", "link")):
            yield from self._names(name, arguments)
        else:
            fd = _FD.match(arguments)
            path = _text(fd["path"]) if fd else ""
            if fd and path == self._words_file:
                yield Word(**_said(_data(arguments)))
            elif fd and path == self._folder and name in ("fsync", "fdatasync"):
                yield Sync(None)
            elif fd and self._is_ours(path):
                yield from self._file(name, int(fd["fd"]), arguments, result)

    def _open(self, arguments: str, fd: int, path: str) -> Iterator[Call]:
        self._handles.pop(fd, None)
        if self._is_ours(path) and not any(flag in arguments for flag in ("O_RDONLY", "O_TMPFILE")):
            self._opened += 1
            self._handles[fd] = self._opened
            self._positions[fd] = 0
            assert "O_APPEND" not in arguments, "the recording does not know where this writes"
            yield Open(Path(path).name, self._opened, "O_TRUNC" in arguments)

    def _names(self, name: str, arguments: str) -> Iterator[Call]:
        paths = [_bytes(text).decode() for text, _ in _STRING.findall(arguments)]
        if not any(self._is_ours(path) for path in paths):
            return
        assert all(self._is_ours(path) for path in paths) and not name.startswith("link"), (name, paths)
        names = [Path(path).name for path in paths]
        yield Rename(*names) if len(names) == 2 else Unlink(*names)

    def _file(self, name: str, fd: int, arguments: str, result: int) -> Iterator[Call]:
        handle = self._handles[fd]
        if name == "pwrite64":
            yield Write(handle, int(arguments.rpartition(", ")[2]), _data(arguments)[:result])
        elif name == "write":
            yield Write(handle, self._positions[fd], _data(arguments)[:result])
            self._positions[fd] += result
        elif name == "ftruncate":
            yield Resize(handle, int(arguments.rpartition(", ")[2]))
        else:
            assert name in ("fsync", "fdatasync"), f"the recording does not know {name}"
            yield Sync(handle)

    def _is_ours(self, path: str) -> bool:
        return path.rpartition("/")[0] == self._folder and not path.endswith("-shm")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(text: str) -> str:
    return _bytes(text).decode("utf-8", "replace") if text.startswith("\\x") else text


def _data(arguments: str) -> bytes:
    found = _STRING.search(arguments)
    assert found and not found[2], "a write was cut off in the recording"
    return _bytes(found[1])


def _said(line: bytes) -> dict[str, object]:
    document = json.loads(line)
    return {"stage": document.pop("stage"), "kind": document.pop("kind"), "what": document}
