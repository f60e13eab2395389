"""A refresh of the signed metadata, as far as it came: the part that verifies counts, whatever is missing behind it.

A whole set, and what it admits, is chain.py's. Clause numbers are those of the TUF specification (version 1.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tuf.api.metadata import Snapshot, Targets, Timestamp

from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import MetadataFiles
from edge_agent.contract.reasons import Reason
from edge_agent.trust.chain import check_link, marks_after_rotation, walk_roots
from edge_agent.trust.signed_file import open_pinned_root, open_signed
from edge_agent.trust.verified import TufVersions


@dataclass(frozen=True, slots=True)
class Refreshed:
    """files: the verified part. marks: what has been seen from now on. refusal: why it ends where it ends."""

    files: MetadataFiles
    marks: TufVersions
    refusal: Rejected | None


def verify_refresh(files: MetadataFiles, *, pinned_root: bytes, seen: TufVersions) -> Refreshed:
    """Verify file after file, in the order in which they name each other, and stop at the first that does not hold.

    Dates do not count: a root rotation or a raised floor is taken from expired metadata as well; what must be fresh is
    checked where new content is admitted. Raises Rejected (too_large, malformed, signature) for the roots alone.
    """
    roots = walk_roots(files.root_chain, open_pinned_root(pinned_root))
    marks = marks_after_rotation(roots, seen)
    kept = MetadataFiles(root_chain=files.root_chain)
    if roots[-1].version < marks.root:
        return Refreshed(MetadataFiles(), seen, _older("root", roots[-1].version, marks.root))
    marks = replace(marks, root=roots[-1].version)
    try:
        if files.timestamp is None:
            return Refreshed(kept, marks, None)
        timestamp = open_signed(files.timestamp, Timestamp, roots[-1])  # 5.4.2
        _check_version("timestamp", timestamp.version, marks.timestamp)  # 5.4.3
        kept = MetadataFiles(files.root_chain, files.timestamp)
        marks = replace(marks, timestamp=timestamp.version)
        if files.tuf_snapshot is None:
            return Refreshed(kept, marks, None)
        tuf_snapshot = open_signed(files.tuf_snapshot, Snapshot, roots[-1])  # 5.5.3
        check_link(timestamp.snapshot_meta, tuf_snapshot, files.tuf_snapshot)  # 5.5.2, 5.5.4
        _check_version("tuf_snapshot", tuf_snapshot.version, marks.tuf_snapshot)  # 5.5.5
        kept = MetadataFiles(files.root_chain, files.timestamp, files.tuf_snapshot)
        marks = replace(marks, tuf_snapshot=tuf_snapshot.version)
        if files.targets is None:
            return Refreshed(kept, marks, None)
        targets = open_signed(files.targets, Targets, roots[-1])  # 5.6.3
        meta = tuf_snapshot.meta.get("targets.json")
        if meta is None:
            raise Rejected("the tuf_snapshot metadata does not name targets.json", reason=Reason.SIGNATURE)
        check_link(meta, targets, files.targets)  # 5.6.2, 5.6.4
        _check_version("targets", targets.version, marks.targets)
    except Rejected as refusal:
        return Refreshed(kept, marks, refusal)
    return Refreshed(files, replace(marks, targets=targets.version), None)


def _check_version(role: str, version: int, mark: int) -> None:
    if version < mark:
        raise _older(role, version, mark)


def _older(role: str, version: int, mark: int) -> Rejected:
    return Rejected(
        f"{role} metadata has version {version}, but this device has seen version {mark}",
        reason=Reason.METADATA_ROLLBACK,
    )
