"""The evidence that admits a snapshot, and the bundle that carries it in a file; verifying it is `trust`'s work.

The writer of bundles is the publisher, the reader is whoever offers a snapshot to a device.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason

Metadata = Annotated[bytes, Meta(max_length=limits.METADATA_BYTES_MAX)]


class Evidence(Struct, frozen=True):
    """Raw signed TUF files, exactly as the publisher wrote them.

    root_chain: the root files after the pinned one, oldest first; may be empty, may also begin with the pinned one.
    """

    root_chain: Annotated[tuple[Metadata, ...], Meta(max_length=limits.ROOT_CHAIN_MAX)]
    timestamp: Metadata
    tuf_snapshot: Metadata
    targets: Metadata


class MetadataFiles(Struct, frozen=True):
    """Raw signed TUF files as far as a refresh came: a later one may be missing, none is there without those before."""

    root_chain: Annotated[tuple[Metadata, ...], Meta(max_length=limits.ROOT_CHAIN_MAX)] = ()
    timestamp: Metadata | None = None
    tuf_snapshot: Metadata | None = None
    targets: Metadata | None = None

    def evidence(self) -> Evidence | None:
        """The whole set; None while a file is missing."""
        if self.timestamp is None or self.tuf_snapshot is None or self.targets is None:
            return None
        return Evidence(self.root_chain, self.timestamp, self.tuf_snapshot, self.targets)


EVIDENCE_BYTES_MAX = 2 * (limits.ROOT_CHAIN_MAX + 3) * limits.METADATA_BYTES_MAX


def encode_evidence(evidence: Evidence | MetadataFiles) -> bytes:
    """Evidence as one MessagePack value (metadata stays byte for byte what was signed)."""
    return msgspec.msgpack.encode(evidence)


def decode_evidence(raw: bytes) -> Evidence:
    """Raises Rejected: too_large or malformed."""
    if len(raw) > EVIDENCE_BYTES_MAX:
        raise Rejected(f"evidence has {len(raw)} bytes, at most {EVIDENCE_BYTES_MAX}", reason=Reason.TOO_LARGE)
    try:
        return msgspec.msgpack.decode(raw, type=Evidence)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rejected(f"evidence is malformed: {error}", reason=Reason.MALFORMED) from error


def decode_metadata_files(raw: bytes) -> MetadataFiles:
    """Raises Rejected: too_large or malformed."""
    if len(raw) > EVIDENCE_BYTES_MAX:
        raise Rejected(f"metadata has {len(raw)} bytes, at most {EVIDENCE_BYTES_MAX}", reason=Reason.TOO_LARGE)
    try:
        return msgspec.msgpack.decode(raw, type=MetadataFiles)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rejected(f"metadata is malformed: {error}", reason=Reason.MALFORMED) from error


# A bundle is a ZIP file with stored (uncompressed) entries of these names, so that `unzip -l` shows what is inside
# and a device that needs two chunks reads only those two.
BUNDLE_FORMAT = "holdfast-bundle-1"
BUNDLE_FORMAT_ENTRY = "FORMAT"
BUNDLE_MANIFEST_ENTRY = "manifest.json"
BUNDLE_TIMESTAMP_ENTRY = "metadata/timestamp.json"
BUNDLE_TUF_SNAPSHOT_ENTRY = "metadata/snapshot.json"
BUNDLE_TARGETS_ENTRY = "metadata/targets.json"


def bundle_root_entry(version: int) -> str:
    """Entry of the root file with this version; a bundle holds the whole chain from version 1."""
    return f"metadata/{version}.root.json"


def bundle_chunk_entry(sha256: str) -> str:
    """Entry of one chunk."""
    return f"chunks/{sha256}"


MANIFESTS_PREFIX = "manifests/"  # of the target paths of manifests; other targets are no snapshots


def manifest_target_path(name: str, version: str) -> str:
    """The TUF target path of a manifest: what the publisher signs, with its length and SHA-256."""
    return f"{MANIFESTS_PREFIX}{name}/{version}.json"


# A field of ours in the signed part of TUF's targets: {model name: lowest release that may be taken in anywhere}.
TARGETS_FLOORS_FIELD = "x-holdfast-floors"
TARGETS_MINIMUMS_FIELD = "x-holdfast-minimum-policies"  # {model: canonical JSON}: signed metadata has no fractions
