"""Where an agent's sockets are, for the runtime that makes them and the commands that look for them.

What lies in the state folder beside them is `store`'s.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from edge_agent.contract.errors import Rejected

_MEMORY = "/dev/shm"
ADMIN_SOCKET = "admin.sock"  # the operator's commands
SYNC_SOCKET = "sync.sock"  # the process that speaks with the network
SYSTEM_UID_MAX = 999  # logind clears /dev/shm of everybody above when they log out (RemoveIPC in logind.conf(5))


def run_folders(state_dir: Path) -> tuple[Path, ...]:
    """Where the sockets of the agent on this state folder may be, the preferred place first.

    In memory, not in the state folder: a disk that turns read-only or full must not stop a worker from listening, and
    paths of unix sockets are bounded (107 bytes). The name carries the state folder's owner and path, so that commands
    of any user find it.
    """
    try:
        owner = state_dir.stat().st_uid
    except OSError:
        owner = os.getuid()
    name = hashlib.sha256(os.fsencode(state_dir.absolute())).hexdigest()[:16]
    places = (_MEMORY, tempfile.gettempdir())
    return tuple(
        Path(place) / f"holdfast-{owner}-{name}" for place in (places if owner <= SYSTEM_UID_MAX else reversed(places))
    )


def make_run_folder(state_dir: Path) -> Path:
    """Make the folder for the sockets. Raises Rejected when no place can be used."""
    faults = []
    for folder in run_folders(state_dir):
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            found = folder.lstat()
        except OSError as error:
            faults.append(f"{folder}: {error.strerror}")
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077:
            return folder
        faults.append(f"{folder} is not a private folder of the agent's user: remove it")
    raise Rejected(
        f"no folder for the agent's sockets: {'; '.join(faults)}",
        next_step="Let the agent's user make folders in one of these places",
    )


def is_writable(folder: Path) -> bool:
    """Whether files can be made here, room aside. Tried, not asked: a file system that failed still says that it is."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return True
