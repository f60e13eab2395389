"""Uploading a repository to the coordinator: what is missing there, metadata last. Packing and signing came before.

An upload that broke off is taken up where it ended: what arrived is not sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from cloud_sync.client.api import Coordinator
from cloud_sync.publish.coordinator import read_coordinator
from cloud_sync.publish.pack import Progress, PublishedSnapshot, Silence, published_snapshots
from cloud_sync.publish.repository import Repository
from cloud_sync.publish.signing import read_published
from edge_agent.contract import limits
from edge_agent.contract.errors import Bug, Rejected, Unavailable
from edge_agent.contract.manifest import chunk_lengths
from edge_agent.contract.reasons import Reason


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What was sent, of how many different chunks, and how many snapshots the coordinator has then.

    expires: when devices stop taking new content from it (the first role's date).
    """

    chunks: int
    chunks_total: int
    bytes: int
    manifests: int
    snapshots: int
    expires: datetime


def upload(repository: Repository, coordinator: Coordinator, *, progress: Progress | None = None) -> Uploaded:
    """Send all that the repository has and the coordinator has not; the coordinator verifies it from its own root.

    Raises Rejected (it refuses, as with another root, an older state, or a version that it knows with other bytes),
    Unavailable (it is away), Corrupt (the repository is damaged).
    """
    say = progress or Silence()
    repository.require()
    published = read_published(repository)
    if published.evidence is None or published.expires is None:
        raise Bug("a repository with a timestamp has no evidence")
    snapshots = published_snapshots(repository, published)
    named = read_coordinator(repository, published)
    try:
        new = _not_there(snapshots, coordinator)
        chunks = _chunks(snapshots)  # of all: one that was lost there since is sent again
        sent = tuple(_send_chunks(repository, chunks, coordinator, say))
        say.step("publishing", 0)
        for snapshot in new:
            coordinator.put_manifest(snapshot.manifest.name, snapshot.manifest.version, snapshot.raw)
        if named is not None:
            coordinator.put_coordinator(named)
        there = coordinator.put_metadata(published.evidence)
    except Unavailable as error:
        again = f"{error.next_step}. What arrived is kept: run the same command again"
        raise Unavailable(error.message, reason=error.reason, next_step=again) from error
    return Uploaded(len(sent), len(chunks), sum(sent), len(new), there, published.expires)


def _not_there(snapshots: Iterable[PublishedSnapshot], coordinator: Coordinator) -> tuple[PublishedSnapshot, ...]:
    """Those that the coordinator does not list. Raises Rejected (version_conflict) before anything is sent."""
    there = {(each.name, each.version): each.digest for each in coordinator.snapshots().view.snapshots}
    new = []
    for snapshot in snapshots:
        manifest = snapshot.manifest
        digest = there.get((manifest.name, manifest.version))
        if digest is None:
            new.append(snapshot)
        elif digest != snapshot.digest:
            raise Rejected(
                f"the coordinator has {manifest.label()} with other bytes"
                f" (digest {digest[:12]}…, here {snapshot.digest[:12]}…)",
                reason=Reason.VERSION_CONFLICT,
            )
    return tuple(new)


def _send_chunks(
    repository: Repository, chunks: dict[str, int], coordinator: Coordinator, say: Progress
) -> Iterator[int]:
    """The length of each chunk that had to be sent, after it has arrived."""
    missing = [sha256 for some in _batches(list(chunks)) for sha256 in coordinator.missing(some) if sha256 in chunks]
    if missing:
        say.step("uploading", sum(chunks[sha256] for sha256 in missing))
    for sha256 in missing:
        coordinator.put_chunk(sha256, repository.read_chunk(sha256, chunks[sha256]))
        say.advance(chunks[sha256])
        yield chunks[sha256]


def _chunks(snapshots: Iterable[PublishedSnapshot]) -> dict[str, int]:
    """Each different chunk with its length, once."""
    return {
        sha256: length
        for snapshot in snapshots
        for entry in snapshot.manifest.files
        for sha256, length in zip(entry.chunks, chunk_lengths(entry), strict=True)
    }


def _batches(chunks: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(chunks), limits.SNAPSHOT_CHUNKS_MAX):
        yield chunks[at : at + limits.SNAPSHOT_CHUNKS_MAX]
