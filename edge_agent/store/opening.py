"""Opening the store at a boot, whatever became of it: damaged files are set aside, what still verifies is salvaged.

What is served from the result is `core`'s decision; here no error escapes but one: a first start without a writable
folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.reasons import Reason
from edge_agent.folders import is_writable
from edge_agent.store.agent_db import AgentDb, JournalEntry
from edge_agent.store.models_db import ModelsDb

Database = TypeVar("Database", AgentDb, ModelsDb)

SET_ASIDE_SUFFIX = ".damaged"
SALVAGED_SUFFIX = ".salvaged"
_MEMORY = "/dev/shm"
COMPANIONS = ("", "-journal", "-wal", "-shm")


@dataclass
class Opened:
    """The two databases (None: of no use now), whether they can be written, and what happened on the way."""

    models: ModelsDb | None
    agent: AgentDb | None
    read_only: Reason | None
    notes: tuple[str, ...]


def open_store(state_dir: Path, at_unix_ms: int) -> Opened:
    """Open both databases of this state folder. Raises Rejected only when nothing is there and nothing can be made."""
    if not _is_writable(state_dir):
        return _open_read_only(state_dir)
    notes: list[str] = []
    agent = _open_or_replace(state_dir / "agent.db", AgentDb, notes, salvage=None)
    _finish_replacing(state_dir / "models.db")
    models = _open_or_replace(
        state_dir / "models.db", ModelsDb, notes, salvage=lambda path: _replace_by_salvaged(path, at_unix_ms)
    )
    read_only = Reason.DISK_FULL if agent is None or models is None else None
    if agent is None and (state_dir / "agent.db").is_file():
        agent = open_copy(state_dir / "agent.db", notes)
    if models is None and (state_dir / "models.db").is_file():
        models = _open_immutable(state_dir / "models.db", ModelsDb, notes)
    return Opened(models, agent, read_only, tuple(notes))


def heal(models: ModelsDb, at_unix_ms: int) -> tuple[ModelsDb, str]:
    """Replace a models.db that turned out to be broken while in use; the old one is closed then.

    Raises Unavailable when that is not possible now: the old one stays open, and as it is.
    """
    note = _replace_by_salvaged(models.path, at_unix_ms)
    models.close()
    return ModelsDb(models.path), note


def _replace_by_salvaged(path: Path, at_unix_ms: int) -> str:
    """Put what still verifies in the place of a damaged models.db. At any moment one of the two is whole.

    Raises Unavailable when there is no room for a second one.
    """
    new = path.with_name(path.name + SALVAGED_SUFFIX)
    _remove(new)
    try:
        fresh = ModelsDb(new)
        try:
            note = salvage(path, fresh, at_unix_ms)
        finally:
            fresh.close()
    except BaseException:
        _remove(new)
        raise
    _set_aside(path)
    new.rename(path)
    return note


def _finish_replacing(path: Path) -> None:
    """A kill between the two renames: the salvaged file is complete, and nothing stands in its place."""
    new = path.with_name(path.name + SALVAGED_SUFFIX)
    if new.is_file() and not path.exists():
        new.rename(path)


def _remove(path: Path) -> None:
    for suffix in COMPANIONS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def salvage(old: Path, fresh: ModelsDb, at_unix_ms: int) -> str:
    """Copy what still verifies from a damaged models.db: snapshots by digest, chunks by hash.

    What was saved, in words.
    """
    try:
        source = ModelsDb(old, immutable=True)
    except HoldfastError:
        return "nothing could be read"
    try:
        snapshots = source.snapshots()
        lost: set[str] = set()
        kept: set[str] = set()
        for snapshot in snapshots:
            fresh.put_snapshot(snapshot, at_unix_ms)
            for sha256 in parse_manifest(snapshot.manifest_raw).chunk_hashes():
                try:
                    data = source.read_chunk(sha256)
                except Corrupt:
                    lost.add(sha256)
                    continue
                fresh.put_chunk(sha256, data)
                kept.add(sha256)
        for data in source.chunk_rows() if lost else ():  # damage of the index hides chunks that are whole
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 in lost:
                fresh.put_chunk(sha256, data)
                lost.discard(sha256)
                kept.add(sha256)
    finally:
        source.close()
    return f"{len(snapshots)} snapshots and {len(kept)} chunks verified and kept, {len(lost)} chunks lost"


def _open_or_replace(
    path: Path, kind: Callable[..., Database], notes: list[str], salvage: Callable[[Path], str] | None
) -> Database | None:
    """Open; when damaged salvage or start afresh, the damaged file aside; None when there is no room even for that."""
    try:
        if path.is_dir():
            raise Corrupt(f"{path.name} is a folder", reason=Reason.DAMAGE)
        return kind(path)
    except Corrupt as error:
        notes.append(error.message)
    except HoldfastError as error:
        notes.append(error.message)
        return None
    try:
        if salvage is not None and path.is_file():
            notes.append(f"{path.name}: {salvage(path)}")
        else:
            _set_aside(path)
            notes.append(f"{path.name} was set aside, a new one was begun")
        return kind(path)
    except (HoldfastError, OSError) as error:
        notes.append(f"{path.name} could not be replaced: {error}")
        return None


def _set_aside(path: Path) -> Path:
    """Move a damaged database and its companions out of the way; only the last one is kept."""
    aside = path.with_name(path.name + SET_ASIDE_SUFFIX)
    for suffix in COMPANIONS:
        source, target = Path(f"{path}{suffix}"), Path(f"{aside}{suffix}")
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        if source.exists():
            source.rename(target)
    return aside


def _open_read_only(state_dir: Path) -> Opened:
    if not (state_dir / "models.db").is_file():
        raise Rejected(
            f"the state folder {state_dir} cannot be written, and there is no store in it yet",
            next_step="Make it writable for the agent's user, or set another state_dir in agent.toml",
        )
    notes: list[str] = ["the state folder cannot be written"]
    agent = open_copy(state_dir / "agent.db", notes)
    models = _open_immutable(state_dir / "models.db", ModelsDb, notes)
    return Opened(models, agent, Reason.READ_ONLY, tuple(notes))


def _open_immutable(path: Path, kind: Callable[..., Database], notes: list[str]) -> Database | None:
    try:
        return kind(path, immutable=True)
    except HoldfastError as error:
        notes.append(error.message)
        return None


def open_copy(path: Path, notes: list[str]) -> AgentDb | None:
    """agent.db as it was last committed, to be read only: a copy in memory, with its WAL folded in.

    Opening the file itself as immutable would pass over the WAL, and with it the newest transitions.
    """
    folder = Path(tempfile.mkdtemp(prefix="holdfast-agent-db-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    try:
        for suffix in ("", "-wal"):
            source = Path(f"{path}{suffix}")
            if source.is_file():
                shutil.copyfile(source, f"{folder / path.name}{suffix}")
        return AgentDb(folder / path.name, read_only=True)
    except (HoldfastError, OSError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the open file lives on without a name


def _is_writable(state_dir: Path) -> bool:
    """Whether a database in this folder can be written: the folder (for the journal) and the files."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    files = [state_dir / name for name in ("models.db", "agent.db")]
    return is_writable(state_dir) and all(os.access(f, os.W_OK) for f in files if f.is_file())


def journal_on_disk(state_dir: Path, model: str | None, newest: int) -> tuple[JournalEntry, ...] | None:
    """The newest lines as they were last committed, without an agent; None when they cannot be read."""
    path = state_dir / "agent.db"
    agent = open_copy(path, []) if path.is_file() else None
    if agent is None:
        return None
    try:
        return agent.journal(model=model, newest=newest)
    except HoldfastError:
        return None
    finally:
        agent.close()
