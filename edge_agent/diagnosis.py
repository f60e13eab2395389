"""One archive with what a support engineer needs; secrets are taken out in `redaction`. Nothing is changed here.

Each part is found out by itself, within a bounded time and size: an agent that is down or hangs, a disk that does, or
a damaged store costs one part and no other.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from edge_agent import AGENT_VERSION
from edge_agent.client import AdminClient
from edge_agent.config import Config
from edge_agent.contract.errors import Corrupt, HoldfastError, Rejected
from edge_agent.contract.manifest import parse_manifest
from edge_agent.doctor import examine
from edge_agent.folders import run_folders
from edge_agent.redaction import secrets_of, without_secrets
from edge_agent.store import agent_db, models_db
from edge_agent.store.opening import journal_on_disk, open_copy

PART_S = 20.0  # one part may take so long: a disk or an agent that hangs costs no more
PART_BYTES_MAX = 2 << 20  # of one part; of a longer one the end is kept
JOURNAL_LINES_MAX = 1_000
LOG_BYTES_MAX = 1 << 20
FILES_MAX = 500  # of the state folder
PROCESSES_MAX = 100

Part = Callable[[], str]


@dataclass(frozen=True)
class Made:
    """The archive, and for each of its parts why it is missing ('' = it is there)."""

    path: Path
    size_bytes: int
    faults: dict[str, str]


def write_diagnosis(config: Config, out: Path | None, log_file: Path | None) -> Made:
    """Raises Rejected when the archive cannot be written where it should be."""
    path = out or Path(f"holdfast-{config.device_id}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.tar.gz")
    secrets = _within(PART_S, lambda: secrets_of(config))
    if isinstance(secrets, Exception):
        raise Rejected(
            f"the files of [sync] cannot be read ({secrets}): what they hold could not be taken out",
            next_step="Try again when the disk answers",
        )
    faults: dict[str, str] = {}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, part in _parts(config, log_file).items():
            found = _within(PART_S, part)
            faults[name] = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else ""
            text = faults[name] or str(found)
            raw = without_secrets(text[-PART_BYTES_MAX:], secrets).encode(errors="replace")[-PART_BYTES_MAX:]
            info = tarfile.TarInfo(f"holdfast/{name}")
            info.size, info.mtime, info.mode = len(raw), int(time.time()), 0o600
            archive.addfile(info, io.BytesIO(raw))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.getvalue())
    except OSError as error:
        raise Rejected(
            f"cannot write {path}: {error.strerror}", next_step="Name another file with --out, on a disk with room"
        ) from error
    return Made(path.absolute(), len(content.getvalue()), faults)


def _within(time_s: float, work: Callable[[], Any]) -> Any:
    """What the work answers, or the exception that it ended with; TimeoutError when it takes longer."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(work())
        except (HoldfastError, OSError, ValueError, KeyError, RuntimeError, sqlite3.Error) as error:
            answer.append(error)

    thread = threading.Thread(target=run, daemon=True)  # one that hangs in the kernel does not keep the command
    thread.start()
    thread.join(time_s)
    return answer[0] if answer else TimeoutError(f"not within {time_s:g} s")


def _parts(config: Config, log_file: Path | None) -> dict[str, Part]:
    """Every part by its name in the archive."""
    state_dir = Path(config.state_dir)
    return {
        "versions.json": lambda: _json(_versions()),
        "settings.json": lambda: _json(msgspec.to_builtins(config)),  # keys that are known: comments stay behind
        "status.json": lambda: _json(_status(config)),
        "journal.jsonl": lambda: _journal(state_dir),
        "doctor.json": lambda: _json([msgspec.to_builtins(check) for check in examine(config)]),
        "files.json": lambda: _json(_files(state_dir)),
        "agent_db.json": lambda: _json(_agent_db(state_dir / "agent.db")),
        "models_db.json": lambda: _json(_models_db(state_dir / "models.db")),
        "machine.json": lambda: _json(_machine(state_dir)),
        "processes.json": lambda: _json(_processes(state_dir)),
        "environment.txt": lambda: "\n".join(sorted(os.environ)),
        "log.txt": lambda: _log(state_dir, log_file),
    }


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, default=str)


def _versions() -> dict[str, Any]:
    release = Path("/etc/os-release")
    return {
        "agent": AGENT_VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.platform(),
        "os_release": release.read_text().splitlines() if release.is_file() else [],
        "schemas": {"agent.db": agent_db.SCHEMA_VERSION, "models.db": models_db.SCHEMA_VERSION},
    }


def _status(config: Config) -> Any:
    with AdminClient(config) as client:
        return client.ask("status")[0]["status"]


def _journal(state_dir: Path) -> str:
    lines = journal_on_disk(state_dir, None, JOURNAL_LINES_MAX)
    if lines is None:
        raise OSError("agent.db cannot be read")
    return "\n".join(json.dumps(line.document(), ensure_ascii=False) for line in lines)


def _files(state_dir: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(state_dir.rglob("*"))[:FILES_MAX]:
        at = path.lstat()
        found.append({"name": str(path.relative_to(state_dir)), "bytes": at.st_size, "mode": oct(at.st_mode),
                      "owner": at.st_uid, "modified_unix_s": at.st_mtime})  # fmt: skip
    return found


def _agent_db(path: Path) -> dict[str, Any]:
    """From a copy in memory: the agent's own is not held up."""
    notes: list[str] = []
    agent = open_copy(path, notes)
    if agent is None:
        return {"fault": notes}
    try:
        return {
            **agent.facts(),
            "outbox": {"waiting": agent.outbox_count(), "acknowledged": agent.acknowledged(),
                       "newest": agent.newest_report()},
            "states": {model: raw.decode(errors="replace") for model, raw in agent.states().items()},
        }  # fmt: skip
    finally:
        agent.close()


def _models_db(path: Path) -> dict[str, Any]:
    """Read without any lock: beside a running agent a fault may be a write in progress."""
    deadline_s = time.monotonic() + PART_S / 2
    models = models_db.ModelsDb(path, immutable=True)
    try:
        found: dict[str, Any] = {**models.facts(), "snapshots": {}}
        for snapshot in models.snapshots():
            hashes = parse_manifest(snapshot.manifest_raw).chunk_hashes()
            damaged, read = [], 0
            for sha256 in hashes:
                if time.monotonic() > deadline_s:
                    break
                read += 1
                try:
                    models.read_chunk(sha256)
                except Corrupt:
                    damaged.append(sha256)
            found["snapshots"][f"{snapshot.name}@{snapshot.version}"] = {
                "digest": snapshot.digest, "release": snapshot.release, "chunks": len(hashes),
                "chunks_read": read, "damaged": damaged,
                "proofs": [(engine, at) for engine, at, _ in models.proofs(snapshot.digest)],
            }  # fmt: skip
        return found
    finally:
        models.close()


def _machine(state_dir: Path) -> dict[str, Any]:
    disk, facts = os.statvfs(state_dir), {}
    for name in ("/proc/meminfo", "/proc/loadavg", "/proc/uptime", "/proc/self/cgroup", "/proc/mounts",
                 "/proc/pressure/memory", "/proc/pressure/io", "/sys/fs/cgroup/memory.max",
                 "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.events"):  # fmt: skip
        try:
            facts[name] = Path(name).read_text(errors="replace")[:20_000].splitlines()
        except OSError as error:
            facts[name] = [str(error.strerror)]
    return {
        "disk": {"free_bytes": disk.f_bavail * disk.f_frsize, "bytes": disk.f_blocks * disk.f_frsize,
                 "free_inodes": disk.f_favail, "read_only": bool(disk.f_flag & os.ST_RDONLY)},
        "clock": {"unix_s": time.time(), "monotonic_s": time.monotonic(), "zone": time.tzname,
                  "boottime_s": time.clock_gettime(time.CLOCK_BOOTTIME)},
        "machine": platform.machine(), "processors": os.cpu_count(), **facts,
    }  # fmt: skip


def _runtime_pid(state_dir: Path) -> int | None:
    """Who holds the lock on the state folder: found also when it answers nobody."""
    inode = state_dir.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words and any(word.endswith(f":{inode}") for word in words):
            numbers = [word for word in words[4:5] if word.isdigit()]
            return int(numbers[0]) if numbers else None
    return None


def _processes(state_dir: Path) -> list[dict[str, Any]]:
    """The runtime, and every process with the run folder in its command line."""
    markers, runtime = [os.fsencode(folder) for folder in run_folders(state_dir)], _runtime_pid(state_dir)
    return list(islice(_candidates(markers, runtime), PROCESSES_MAX))


def _candidates(markers: list[bytes], runtime: int | None) -> Iterator[dict[str, Any]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            if int(entry.name) != runtime and not any(marker in command for marker in markers):
                continue
            status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines() if ":" in line)
            kept = {key: status.get(key, "").strip() for key in ("Name", "State", "VmRSS", "VmSize", "Threads")}
            yield {"pid": int(entry.name), "runtime": int(entry.name) == runtime,
                   "command": command.replace(b"\0", b" ").decode(errors="replace")[:2_000],
                   "files": len(list((entry / "fd").iterdir())), **kept}  # fmt: skip
        except OSError:
            continue  # it ended, or is another user's


def _log(state_dir: Path, log_file: Path | None) -> str:
    """The end of the log: of the file that was named, or that the runtime writes to."""
    runtime = _runtime_pid(state_dir)
    path = log_file
    if path is None and runtime is not None:
        path = Path(os.readlink(f"/proc/{runtime}/fd/2"))
    if path is None or not path.is_file():
        raise OSError("no log file was found: name it with --log, or add the service manager's journal by hand")
    with path.open("rb") as file:
        skipped = max(0, path.stat().st_size - LOG_BYTES_MAX)
        file.seek(skipped)
        text = file.read(LOG_BYTES_MAX).decode(errors="replace")
    return text.partition("\n")[2] if skipped else text  # half a line could hold half a secret, which is not found
