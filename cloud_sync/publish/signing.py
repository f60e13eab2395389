"""The signed metadata of a repository: read and verify what is there, sign the next versions.

Devices do their own verification (`edge_agent.trust`). Why the publisher verifies its own files: the folder
may lie where others can write, and whoever adds an entry there must not get it signed with the next snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from cloud_sync.publish.keys import Lifetimes, load_signer
from cloud_sync.publish.repository import Repository
from edge_agent.contract.errors import Corrupt, Rejected
from edge_agent.contract.evidence import TARGETS_FLOORS_FIELD, TARGETS_MINIMUMS_FIELD, Evidence
from edge_agent.contract.policy import Policy, encode_policy, parse_policy
from edge_agent.contract.reasons import Reason

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Published:
    """What a repository has published: its evidence (raw) and the payloads, signatures verified.

    In a new repository only the root is there: evidence is None and the versions are 0.
    """

    root: Root
    evidence: Evidence | None
    targets: Mapping[str, TargetFile]
    floors: Mapping[str, int]
    minimums: Mapping[str, Policy]
    versions: Mapping[str, int]
    expires: datetime | None


def read_published(repository: Repository, first_root: bytes | None = None) -> Published:
    """Read and verify all signed files, from `first_root` (default: the repository's own: finds damage only).

    Raises Rejected when the repository was begun with other keys; Corrupt when a file is missing, damaged or
    not signed by these keys.
    """
    roots = repository.root_files() or ((first_root,) if first_root else ())
    if not roots:
        raise Corrupt(f"{repository.folder} has no root file", next_step="Restore the repository's folder")
    if first_root is not None and roots[0] != first_root:
        raise Rejected(
            f"the repository {repository.folder} was begun with other keys",
            reason=Reason.SIGNATURE,
            next_step="Name the keys that it was begun with (--keys), or another folder (--repo)",
        )
    try:
        return _verify(repository, roots)
    except (RepositoryError, DeserializationError, ValueError, KeyError) as error:
        raise Corrupt(
            f"the signed metadata in {repository.folder} does not verify: {error}",
            next_step="Someone or something changed it: restore the folder from a copy",
        ) from error


def verify_evidence(evidence: Evidence) -> Published:
    """The same for files that somebody sent; the first root of its chain is one that the caller trusts.

    Raises Rejected: signature.
    """

    def read(file_name: str) -> bytes:
        return evidence.tuf_snapshot if file_name.endswith(".snapshot.json") else evidence.targets

    try:
        return _verify_files(evidence.root_chain, evidence.timestamp, read)
    except (RepositoryError, DeserializationError, ValueError, KeyError) as error:
        raise Rejected(f"the signed metadata does not verify: {error}", reason=Reason.SIGNATURE) from error


def publish(
    repository: Repository,
    keys: Path,
    published: Published,
    *,
    now: datetime,
    added: Mapping[str, bytes] | None = None,
    floors: Mapping[str, int] | None = None,
    minimums: Mapping[str, Policy] | None = None,
    lifetimes: Lifetimes | None = None,
) -> Mapping[str, int]:
    """Sign the next targets, tuf_snapshot and timestamp; gives their versions. The caller holds the lock.

    added: raw targets to add or replace, by target path; none: the same content with new dates. floors: {model: lowest
    release} to state; a floor never falls. minimums: {model: minimum policy} to state in place of the present one.
    Files are written in the order in which they name each other, timestamp.json last: until then nothing has changed.
    Raises Rejected (a key is missing or wrong, a floor would fall), Unavailable (cannot be written).
    """
    life = lifetimes or Lifetimes()
    version = {role: published.versions[role] + 1 for role in ("targets", "tuf_snapshot", "timestamp")}
    signed = {path: TargetFile.from_data(path, raw, ["sha256"]) for path, raw in (added or {}).items()}
    targets = Targets(
        version=version["targets"],
        expires=now + timedelta(days=life.targets_days),
        targets={**published.targets, **signed},
        unrecognized_fields={
            TARGETS_FLOORS_FIELD: _raised(published.floors, floors or {}),
            TARGETS_MINIMUMS_FIELD: {
                name: encode_policy(policy) for name, policy in {**published.minimums, **(minimums or {})}.items()
            },
        },
    )
    targets_raw = _sign(keys, "targets", published.root, targets)
    tuf_snapshot = Snapshot(
        version=version["tuf_snapshot"],
        expires=now + timedelta(days=life.tuf_snapshot_days),
        meta={"targets.json": MetaFile.from_data(targets.version, targets_raw, ["sha256"])},
    )
    tuf_snapshot_raw = _sign(keys, "tuf_snapshot", published.root, tuf_snapshot)
    timestamp = Timestamp(
        version=version["timestamp"],
        expires=now + timedelta(days=life.timestamp_days),
        snapshot_meta=MetaFile.from_data(tuf_snapshot.version, tuf_snapshot_raw, ["sha256"]),
    )
    timestamp_raw = _sign(keys, "timestamp", published.root, timestamp)
    repository.write_metadata(f"{targets.version}.targets.json", targets_raw)
    repository.write_metadata(f"{tuf_snapshot.version}.snapshot.json", tuf_snapshot_raw)
    repository.write_metadata("timestamp.json", timestamp_raw)
    return version


def _raised(present: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, int]:
    for name, release in wanted.items():
        if release < present.get(name, 0):
            raise Rejected(
                f"the floor of {name} is {present[name]} and cannot fall to {release}",
                next_step="Devices have seen it: publish a release above the floor",
            )
    return {**present, **wanted}


def _sign(keys: Path, role: str, root: Root, payload: Any) -> bytes:
    metadata = Metadata(payload)
    metadata.sign(load_signer(keys, role, root))
    return metadata.to_bytes()


def _verify(repository: Repository, roots: tuple[bytes, ...]) -> Published:
    timestamp_raw = repository.read_metadata("timestamp.json")
    if timestamp_raw is None:
        root = _verified_roots(roots)
        return Published(root, None, {}, {}, {}, {"targets": 0, "tuf_snapshot": 0, "timestamp": 0}, None)
    return _verify_files(roots, timestamp_raw, repository.read_metadata)


def _verify_files(roots: tuple[bytes, ...], timestamp_raw: bytes, read: Callable[[str], bytes | None]) -> Published:
    root = _verified_roots(roots)
    timestamp = _open(timestamp_raw, Timestamp, root)
    tuf_snapshot_raw = _linked(read, "snapshot", timestamp.snapshot_meta)
    tuf_snapshot = _open(tuf_snapshot_raw, Snapshot, root)
    targets_raw = _linked(read, "targets", tuf_snapshot.meta["targets.json"])
    targets = _open(targets_raw, Targets, root)
    return Published(
        root=root,
        evidence=Evidence(roots, timestamp_raw, tuf_snapshot_raw, targets_raw),
        targets=targets.targets,
        floors=targets.unrecognized_fields.get(TARGETS_FLOORS_FIELD, {}),
        minimums={
            name: parse_policy(text)
            for name, text in targets.unrecognized_fields.get(TARGETS_MINIMUMS_FIELD, {}).items()
        },
        versions={
            "root": root.version,
            "targets": targets.version,
            "tuf_snapshot": tuf_snapshot.version,
            "timestamp": timestamp.version,
        },
        expires=min(root.expires, timestamp.expires, tuf_snapshot.expires, targets.expires),
    )


def check_first_root(raw: bytes) -> None:
    """That these bytes are a root file that signs itself. Raises Rejected (malformed)."""
    try:
        _verified_roots((raw,))
    except (RepositoryError, DeserializationError, ValueError, KeyError) as error:
        raise Rejected(
            f"this is no root file: {error}", reason=Reason.MALFORMED, next_step="Name the publisher's 1.root.json"
        ) from error


def _verified_roots(roots: tuple[bytes, ...]) -> Root:
    trusted: Root | None = None
    for raw in roots:
        metadata: Metadata[Root] = Metadata.from_bytes(raw)
        root = metadata.signed
        result = root.get_root_verification_result(trusted, metadata.signed_bytes, metadata.signatures)
        if not result:
            raise ValueError(f"root version {root.version} is not signed by the keys that have to sign it")
        trusted = root
    if trusted is None:
        raise ValueError("there is no root file")
    return trusted


def _linked(read: Callable[[str], bytes | None], role: str, meta: MetaFile) -> bytes:
    raw = read(f"{meta.version}.{role}.json")
    if raw is None:
        raise ValueError(f"{meta.version}.{role}.json is missing")
    meta.verify_length_and_hashes(raw)
    return raw


def _open(raw: bytes, kind: type[S], root: Root) -> S:
    metadata: Metadata[S] = Metadata.from_bytes(raw)
    if not isinstance(metadata.signed, kind):
        raise RepositoryError(f"a file should be {kind.type} metadata and is {metadata.signed.type}")
    root.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
    return metadata.signed
