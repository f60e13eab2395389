"""A disk as pessimistic as POSIX allows, fed with the recorded calls of a process: which images a power cut may leave.

- A write or a change of size is durable once its file was synced; until then each may be there, missing, or torn at a
  sector, whatever became of those before and after it.
- A name that was made, changed or removed is durable once its folder was synced; until then each change may be there or
  missing, whatever became of the others. (File systems with a journal keep them in order; we do not rely on that.)
- What was synced is there, whole.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

SECTOR_BYTES = 512


@dataclass(frozen=True)
class Open:
    """A file of this name was opened; it is made when there is none, and emptied when asked for."""

    name: str
    handle: int
    empty: bool = False


@dataclass(frozen=True)
class Write:
    """Bytes at an offset of the file behind this handle."""

    handle: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    """The file behind this handle has this size now."""

    handle: int
    size: int


@dataclass(frozen=True)
class Sync:
    """The file behind this handle was synced; None: the folder."""

    handle: int | None


@dataclass(frozen=True)
class Rename:
    old: str
    new: str


@dataclass(frozen=True)
class Unlink:
    name: str


@dataclass(frozen=True)
class Word:
    """No call: what the product was asked, or has said to be done, at this place among its calls."""

    stage: str
    kind: str
    what: dict[str, str]


Call = Open | Write | Resize | Sync | Rename | Unlink | Word
Change = tuple[int, bytes] | int  # bytes at an offset, or a new size


@dataclass
class File:
    """What is on the disk for sure, and the changes since."""

    durable: bytes = b""
    pending: list[Change] = field(default_factory=list)

    def content(self, keep: Callable[[Change], Change | None]) -> bytes:
        """The bytes when each pending change became what `keep` says of it."""
        changed = bytearray(self.durable)
        for change in self.pending:
            kept = keep(change)
            if isinstance(kept, int):
                changed[kept:] = bytes(max(0, kept - len(changed)))
            elif kept is not None:
                offset, data = kept
                if offset > len(changed):
                    changed += bytes(offset - len(changed))
                changed[offset : offset + len(data)] = data
        return bytes(changed)


Names = dict[str, File]
NameChange = Callable[[Names], None]
Image = dict[str, bytes]


class Disk:
    """One folder. `apply` every call in order; the images are those of a power cut after the last one."""

    def __init__(self) -> None:
        self._now: Names = {}
        self._durable: Names = {}
        self._pending: list[NameChange] = []
        self._open: dict[int, File] = {}

    def apply(self, call: Call) -> None:
        match call:
            case Open(name, handle, empty):
                if name not in self._now:
                    made = File()
                    self._change_names(lambda names: names.__setitem__(name, made))
                self._open[handle] = self._now[name]
                if empty:
                    self._open[handle].pending.append(0)
            case Write(handle, offset, data):
                self._open[handle].pending.append((offset, data))
            case Resize(handle, size):
                self._open[handle].pending.append(size)
            case Sync(None):
                self._durable, self._pending = dict(self._now), []
            case Sync(int(handle)):
                file = self._open[handle]
                file.durable, file.pending = file.content(lambda change: change), []
            case Rename(old, new):
                moved = self._now[old]

                def rename(names: Names) -> None:
                    names.pop(old, None)
                    names[new] = moved

                self._change_names(rename)
            case Unlink(name):
                self._change_names(lambda names: names.pop(name, None) and None)

    def _change_names(self, change: NameChange) -> None:
        change(self._now)
        self._pending.append(change)

    def all_kept(self) -> Image:
        """Nothing was lost: what a kill of the process leaves."""
        return {name: file.content(lambda change: change) for name, file in self._now.items()}

    def synced_only(self) -> Image:
        """Everything was lost that may be."""
        return {name: file.durable for name, file in self._durable.items()}

    def names_lost(self) -> Image:
        """Every byte was kept, and no change of a name: a removed journal is back."""
        return {name: file.content(lambda change: change) for name, file in self._durable.items()}

    def bytes_lost(self) -> Image:
        """Every change of a name was kept, and no byte: a file has its new name and nothing in it."""
        return {name: file.durable for name, file in self._now.items()}

    def some_kept(self, chance: random.Random) -> Image:
        """Of what may be lost each is there, missing or torn."""
        share = chance.choice((0.1, 0.5, 0.9))
        names = dict(self._durable)
        for change in self._pending:
            if chance.random() < share:
                change(names)
        contents: dict[int, bytes] = {}  # one file may have two names

        def keep(change: Change) -> Change | None:
            if chance.random() >= share:
                return None
            if isinstance(change, int) or chance.random() < 0.7:
                return change
            return _torn(change, chance)

        for file in names.values():
            contents.setdefault(id(file), file.content(keep))
        return {name: contents[id(file)] for name, file in names.items()}

    def loses_something(self) -> bool:
        """Whether there is anything that a power cut may take now."""
        return bool(self._pending) or any(file.pending for file in {**self._durable, **self._now}.values())


def _torn(change: tuple[int, bytes], chance: random.Random) -> Change | None:
    """Some sectors of this write, from its beginning or to its end."""
    offset, data = change
    ends = list(range(SECTOR_BYTES - offset % SECTOR_BYTES, len(data), SECTOR_BYTES))
    if not ends:
        return change
    at = chance.choice(ends)
    return (offset, data[:at]) if chance.random() < 0.5 else (offset + at, data[at:])
