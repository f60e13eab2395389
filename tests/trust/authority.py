"""A publisher in memory that signs what it is told to; the real one is `cloud_sync.publish`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from edge_agent.contract.evidence import TARGETS_FLOORS_FIELD, Evidence, manifest_target_path

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
ROLES = ("root", "timestamp", "snapshot", "targets")  # TUF's own words
Edit = Callable[[Any], None]


def signed(payload: Any, *signers: CryptoSigner) -> bytes:
    """A TUF file with this payload, signed by all of these."""
    metadata = Metadata(payload)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


class Authority:
    """Keys, the chain of roots that they made, and evidence on demand. roots[0] is what a device pins."""

    def __init__(self, *, keys_per_role: int = 1, threshold: int = 1, root_expires: datetime = LATER) -> None:
        self.threshold = threshold
        self.root_expires = root_expires
        self.signers = {role: _new_keys(keys_per_role) for role in ROLES}
        self.roots = [signed(self._root(1), *self.signers["root"])]

    @property
    def pinned(self) -> bytes:
        """What a device of this publisher pins."""
        return self.roots[0]

    def rotate(self, *roles: str, signed_by: tuple[CryptoSigner, ...] | None = None, step: int = 1) -> None:
        """New keys for these roles, and the next root, signed by old and new root keys (or `signed_by`)."""
        before = list(self.signers["root"])
        for role in roles:
            self.signers[role] = _new_keys(len(self.signers[role]))
        both = {signer.public_key.keyid: signer for signer in (*before, *self.signers["root"])}
        root = self._root(len(self.roots) + step)
        self.roots.append(signed(root, *(both.values() if signed_by is None else signed_by)))

    def evidence(
        self,
        manifest_raw: bytes,
        *,
        path: str = manifest_target_path("tiny", "1.0.0"),
        version: int = 1,
        expires: Mapping[str, datetime] | None = None,
        floors: Any = None,
        signed_by: Mapping[str, list[CryptoSigner]] | None = None,
        edit: Mapping[str, Edit] | None = None,
    ) -> Evidence:
        """The files that admit this manifest. edit: what to do to a role's payload before it is signed."""
        by, change, dates = {**self.signers, **(signed_by or {})}, edit or {}, expires or {}
        extra = {} if floors is None else {TARGETS_FLOORS_FIELD: floors}
        targets = Targets(version, None, dates.get("targets", LATER), None, None, extra)
        targets.targets = {path: TargetFile.from_data(path, manifest_raw, ["sha256"])}
        targets_raw = _edited(targets, change.get("targets"), by["targets"])
        meta = {"targets.json": MetaFile.from_data(version, targets_raw, ["sha256"])}
        snapshot = Snapshot(version, None, dates.get("snapshot", LATER), meta)
        snapshot_raw = _edited(snapshot, change.get("snapshot"), by["snapshot"])
        link = MetaFile.from_data(version, snapshot_raw, ["sha256"])
        timestamp = Timestamp(version, None, dates.get("timestamp", LATER), link)
        timestamp_raw = _edited(timestamp, change.get("timestamp"), by["timestamp"])
        return Evidence(tuple(self.roots), timestamp_raw, snapshot_raw, targets_raw)

    def _root(self, version: int) -> Root:
        root = Root(version, None, self.root_expires)
        for role in ROLES:
            for signer in self.signers[role]:
                root.add_key(signer.public_key, role)
            root.roles[role].threshold = min(self.threshold, len(self.signers[role]))
        return root


def _new_keys(count: int) -> list[CryptoSigner]:
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


def _edited(payload: Any, edit: Edit | None, signers: list[CryptoSigner]) -> bytes:
    if edit is not None:
        edit(payload)
    return signed(payload, *signers)
