"""Naming the coordinator: its key and epoch become a signed target, which devices need to believe an assignment.

The key itself belongs to the coordinator (`cloud-sync init` makes it); how metadata is signed is signing.py's matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cloud_sync.publish.keys import read_first_root
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import Published, publish, read_published
from edge_agent.contract import limits
from edge_agent.contract.canonical import encode
from edge_agent.contract.envelope import COORDINATOR_TARGET_PATH, CoordinatorKey, parse_coordinator_key
from edge_agent.contract.errors import Corrupt, Rejected
from edge_agent.contract.reasons import Reason

# The next coordinator.json lies here until the metadata that names it is signed. The present one stays readable so
# long: a power cut between the two files would otherwise leave a target that fits no file, and nobody knew the epoch.
_NEXT_PATH = "coordinator.next.json"
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Authorized:
    """The coordinator that is named now. unchanged: it was before, nothing was signed. versions: of the metadata."""

    key: CoordinatorKey
    unchanged: bool
    versions: Mapping[str, int]


def authorize(public_key: str, *, keys: Path, repository: Repository, now: datetime) -> Authorized:
    """Name the coordinator by its raw Ed25519 key in hexadecimal, in a new repository too.

    Another key than the present one gets the next epoch, which voids every assignment of an earlier coordinator.
    Raises Rejected (no such key, a publisher's key is missing or wrong), Unavailable (cannot be written, another
    publisher is at work), Corrupt (the repository is damaged).
    """
    if not _PUBLIC_KEY.match(public_key):
        raise _malformed("what was given as the coordinator's key")
    first_root = read_first_root(keys)
    with repository.publishing():
        published = read_published(repository, first_root)
        path, present = _find(repository, published)
        if path == _NEXT_PATH:  # the power went before the last step of the authorisation that named this one
            repository.move_target(_NEXT_PATH, COORDINATOR_TARGET_PATH)
        epoch = 1
        if present is not None:
            key = parse_coordinator_key(present)
            if key.public_key == public_key:
                return Authorized(key, unchanged=True, versions=published.versions)
            epoch = key.epoch + 1
        named = CoordinatorKey(epoch, public_key)
        raw = encode(named)
        repository.begin(first_root)
        repository.write_target(_NEXT_PATH, raw)
        versions = publish(repository, keys, published, now=now, added={COORDINATOR_TARGET_PATH: raw})
        repository.move_target(_NEXT_PATH, COORDINATOR_TARGET_PATH)
    return Authorized(named, unchanged=False, versions=versions)


def read_coordinator(repository: Repository, published: Published) -> bytes | None:
    """coordinator.json as it was signed, None before any was. Raises Corrupt when the file is missing or damaged."""
    return _find(repository, published)[1]


def read_public_key(path: Path) -> str:
    """The key in a coordinator.pub: 64 hexadecimal digits and a newline. Raises Rejected for anything else."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(limits.COORDINATOR_KEY_BYTES_MAX)
    except OSError as error:
        raise Rejected(
            f"the coordinator's key {path} cannot be read: {error.strerror}",
            next_step="Name the file coordinator.pub that `cloud-sync init` has made",
        ) from error
    text = raw.decode("ascii", "replace").removesuffix("\n")
    if not _PUBLIC_KEY.match(text):
        raise _malformed(str(path))
    return text


def _find(repository: Repository, published: Published) -> tuple[str, bytes | None]:
    """Where the signed coordinator.json lies, and its bytes."""
    target = published.targets.get(COORDINATOR_TARGET_PATH)
    if target is None:
        return COORDINATOR_TARGET_PATH, None
    length, sha256 = target.length, target.hashes["sha256"]
    try:
        return _NEXT_PATH, repository.read_target(_NEXT_PATH, length=length, sha256=sha256)
    except Corrupt:  # as nearly always: there is none, or one that was never signed
        return COORDINATOR_TARGET_PATH, repository.read_target(COORDINATOR_TARGET_PATH, length=length, sha256=sha256)


def _malformed(what: str) -> Rejected:
    return Rejected(
        f"{what} is not 64 hexadecimal digits on one line, the public key of a coordinator",
        reason=Reason.MALFORMED,
        next_step="Name the file coordinator.pub that `cloud-sync init` has made; the .key file stays where it is",
    )
