"""The walk from the pinned root to a manifest: all that may make a device trust one.

It reads no file and no clock; one signed file at a time is signed_file.py's. Clause numbers are those of the
TUF specification's detailed client workflow (version 1.0). What differs, on purpose:

- all files are at hand, so signatures are checked first and dates last (the specification fetches in between)
- `verify_admitted` checks neither dates nor versions seen: once admitted, a snapshot stays servable, and
  going back to an older one must work without network and with a wrong clock
- delegated targets (5.6.7) are not followed: a manifest is named by the top-level targets or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Bug, Rejected
from edge_agent.contract.evidence import (
    TARGETS_FLOORS_FIELD,
    TARGETS_MINIMUMS_FIELD,
    Evidence,
    manifest_target_path,
)
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.contract.policy import Policy, parse_policy
from edge_agent.contract.reasons import Reason
from edge_agent.trust.signed_file import (
    check_meta_version,
    check_size,
    claimed_version,
    open_next_root,
    open_pinned_root,
    open_signed,
)
from edge_agent.trust.verified import VERIFICATION, DeviceProfile, TufVersions, VerifiedManifest


@dataclass(frozen=True, slots=True)
class _Chain:
    """The payloads of one evidence, all signatures and links verified. roots: the trusted ones, in order."""

    roots: tuple[Root, ...]
    timestamp: Timestamp
    tuf_snapshot: Snapshot
    targets: Targets

    def versions(self) -> TufVersions:
        return TufVersions(
            root=self.roots[-1].version,
            timestamp=self.timestamp.version,
            tuf_snapshot=self.tuf_snapshot.version,
            targets=self.targets.version,
        )


def verify_metadata(evidence: Evidence, *, pinned_root: bytes, seen: TufVersions) -> TufVersions:
    """The versions of signed metadata that is not older than what was seen: the device's marks from now on, whatever
    becomes of the manifest that came with it. Dates do not count: who signed it has signed nothing older since.

    Raises Rejected: too_large, malformed, signature, metadata_rollback. No other error, whatever the bytes are.
    """
    chain = _walk(evidence, pinned_root)
    _check_not_older(chain, seen)
    return chain.versions()


def verify_offer(
    evidence: Evidence,
    manifest_raw: bytes,
    *,
    pinned_root: bytes,
    now: datetime,
    seen: TufVersions,
    device: DeviceProfile,
) -> VerifiedManifest:
    """Decide whether new content may be taken in by this device at this time.

    pinned_root: raw root file. now: an aware datetime. seen: the highest versions that this device has seen.

    Raises Rejected: too_large, malformed, signature, metadata_rollback, expired, wrong_slot, incompatible,
    below_floor. Whatever the bytes are, no other error is raised.
    """
    if now.tzinfo is None:
        raise Bug("verify_offer was given a time without a time zone")
    chain = _walk(evidence, pinned_root)
    _check_not_older(chain, seen)
    _check_not_expired(chain, now)
    verified = _manifest_of(chain, evidence, manifest_raw)
    _check_fits(verified, device)
    return verified


def verify_admitted(evidence: Evidence, manifest_raw: bytes, pinned_root: bytes) -> VerifiedManifest:
    """Verify what was admitted before (at each load) or installed (the factory snapshot): no clock, no marks.

    Raises Rejected: too_large, malformed, signature. Whatever the bytes are, no other error is raised.
    """
    return _manifest_of(_walk(evidence, pinned_root), evidence, manifest_raw)


def verify_target(evidence: Evidence, path: str, raw: bytes, pinned_root: bytes) -> TufVersions:
    """That the publisher signed exactly these bytes under this path; dates do not count. Versions of the metadata.

    Raises Rejected: too_large, malformed, signature. Whatever the bytes are, no other error is raised.
    """
    chain = _walk(evidence, pinned_root)
    target = chain.targets.targets.get(path)
    if target is None or target.length != len(raw) or target.hashes.get("sha256") != sha256_hex(raw):
        raise Rejected(f"{path} is not what the signed targets state", reason=Reason.SIGNATURE)
    return chain.versions()


def check_pinned_root(pinned_root: bytes) -> int:
    """The version of a usable pinned root, for start-up and `doctor`.

    Raises Rejected: too_large, malformed, signature.
    """
    return open_pinned_root(pinned_root).version


def _walk(evidence: Evidence, pinned_root: bytes) -> _Chain:
    roots = walk_roots(evidence.root_chain, open_pinned_root(pinned_root))
    root = roots[-1]
    timestamp = open_signed(evidence.timestamp, Timestamp, root)  # 5.4.2
    tuf_snapshot = open_signed(evidence.tuf_snapshot, Snapshot, root)  # 5.5.3
    check_link(timestamp.snapshot_meta, tuf_snapshot, evidence.tuf_snapshot)  # 5.5.2, 5.5.4
    targets = open_signed(evidence.targets, Targets, root)  # 5.6.3
    meta = tuf_snapshot.meta.get("targets.json")
    if meta is None:
        raise Rejected("the tuf_snapshot metadata does not name targets.json", reason=Reason.SIGNATURE)
    check_link(meta, targets, evidence.targets)  # 5.6.2, 5.6.4
    return _Chain(roots, timestamp, tuf_snapshot, targets)


def walk_roots(root_chain: tuple[bytes, ...], pinned: Root) -> tuple[Root, ...]:
    """The trusted roots, from the pinned one on: 5.3.3 to 5.3.9. Files up to the trusted version are passed over: a
    bundle begins at version 1. Raises Rejected: too_large, malformed, signature.
    """
    if len(root_chain) > limits.ROOT_CHAIN_MAX:
        raise Rejected(
            f"the root chain has {len(root_chain)} files, at most {limits.ROOT_CHAIN_MAX} are allowed",
            reason=Reason.TOO_LARGE,
        )
    roots = [pinned]
    for raw in root_chain:
        if claimed_version(raw) > roots[-1].version:
            roots.append(open_next_root(raw, roots[-1]))
    return tuple(roots)


def check_link(meta: MetaFile, signed: Signed, raw: bytes) -> None:
    """One file states version, length and hashes of another one: no mixing of files from different days.

    Raises Rejected: malformed, signature.
    """
    stated = check_meta_version(meta)
    if stated != signed.version:
        raise Rejected(
            f"{signed.type} metadata has version {signed.version}, but version {stated} was stated",
            reason=Reason.SIGNATURE,
        )
    try:
        meta.verify_length_and_hashes(raw)
    except LengthOrHashMismatchError as error:
        raise Rejected(
            f"{signed.type} metadata is not the file whose hash was signed", reason=Reason.SIGNATURE
        ) from error


def _check_not_older(chain: _Chain, seen: TufVersions) -> None:
    """5.4.3, 5.5.5 (and 5.6 through 5.5.5): nothing may be older than what this device has seen."""
    marks = marks_after_rotation(chain.roots, seen)
    have = chain.versions()
    for role in ("root", "timestamp", "tuf_snapshot", "targets"):
        version, mark = getattr(have, role), getattr(marks, role)
        if version < mark:
            raise Rejected(
                f"{role} metadata has version {version}, but this device has seen version {mark}",
                reason=Reason.METADATA_ROLLBACK,
            )


def marks_after_rotation(roots: tuple[Root, ...], seen: TufVersions) -> TufVersions:
    """5.3.11: a rotated key voids the versions it had signed: a stolen key cannot block a device for ever.

    The mark of targets stands until the keys of targets themselves rotate: only they could have raised it.
    """
    then = next((root for root in roots if root.version == max(seen.root, roots[0].version)), roots[-1])
    rotated = {role for role in ("timestamp", "snapshot", "targets") if _keys(then, role) != _keys(roots[-1], role)}
    online = bool(rotated & {"timestamp", "snapshot"})
    return TufVersions(
        root=seen.root,
        timestamp=0 if online else seen.timestamp,
        tuf_snapshot=0 if online else seen.tuf_snapshot,
        targets=0 if "targets" in rotated else seen.targets,
    )


def _keys(root: Root, role: str) -> frozenset[str]:
    return frozenset(root.roles[role].keyids)


def _check_not_expired(chain: _Chain, now: datetime) -> None:
    """5.3.10 (the last root only), 5.4.4, 5.5.6, 5.6.5."""
    for signed in (chain.roots[-1], chain.timestamp, chain.tuf_snapshot, chain.targets):
        if signed.is_expired(now):
            raise Rejected(
                f"{_role_word(signed)} metadata expired at {signed.expires:%Y-%m-%d %H:%M} UTC",
                reason=Reason.EXPIRED,
            )


def _role_word(signed: Signed) -> str:
    return "tuf_snapshot" if signed.type == Snapshot.type else signed.type


def _manifest_of(chain: _Chain, evidence: Evidence, manifest_raw: bytes) -> VerifiedManifest:
    """5.7: the manifest's length and hash are among the signed targets; only then is it parsed."""
    check_size(manifest_raw, "the manifest", limits.MANIFEST_BYTES_MAX)
    digest = sha256_hex(manifest_raw)
    paths = {
        path
        for path, target in chain.targets.targets.items()
        if target.length == len(manifest_raw) and target.hashes.get("sha256") == digest
    }
    if not paths:
        raise Rejected("the manifest is not among the signed targets", reason=Reason.SIGNATURE)
    manifest = parse_manifest(manifest_raw)
    if manifest_target_path(manifest.name, manifest.version) not in paths:
        raise Rejected(f"{manifest.label()} was signed under another name", reason=Reason.SIGNATURE)
    return VerifiedManifest(
        manifest=manifest,
        raw=manifest_raw,
        digest=digest,
        evidence=evidence,
        versions=chain.versions(),
        floors=_floors(chain.targets),
        verification=VERIFICATION,
    )


def _floors(targets: Targets) -> Mapping[str, int]:
    """The publisher's floors, a field of our own in the signed part: {model name: lowest release}."""
    stated: Any = targets.unrecognized_fields.get(TARGETS_FLOORS_FIELD, {})
    if not isinstance(stated, dict) or not all(
        type(release) is int and 0 <= release <= limits.RELEASE_MAX for release in stated.values()
    ):
        raise Rejected("the floors in the targets metadata are malformed", reason=Reason.MALFORMED)
    return MappingProxyType(stated)


def stated_minimums(evidence: Evidence, pinned_root: bytes) -> Mapping[str, Policy]:
    """The policy below which the publisher lets nobody go, per model name; a field of our own in the signed part.

    Raises Rejected: too_large, malformed, signature.
    """
    stated: Any = _walk(evidence, pinned_root).targets.unrecognized_fields.get(TARGETS_MINIMUMS_FIELD, {})
    if not isinstance(stated, dict) or not all(isinstance(text, str) for text in stated.values()):
        raise Rejected("the minimum policies in the targets metadata are malformed", reason=Reason.MALFORMED)
    return MappingProxyType({name: parse_policy(text) for name, text in stated.items()})


def _check_fits(verified: VerifiedManifest, device: DeviceProfile) -> None:
    manifest = verified.manifest
    if manifest.name not in device.models:
        raise Rejected(f"this device does not run a model named {manifest.name!r}", reason=Reason.WRONG_SLOT)
    fault = _misfit(manifest, device)
    if fault:
        raise Rejected(f"{manifest.label()} {fault}", reason=Reason.INCOMPATIBLE)
    floor = verified.floors.get(manifest.name, 0)
    if manifest.release < floor:
        raise Rejected(
            f"{manifest.label()} is release {manifest.release}, the publisher's floor is {floor}",
            reason=Reason.BELOW_FLOOR,
        )


def _misfit(manifest: Manifest, device: DeviceProfile) -> str | None:
    if not manifest.fits_device(device.device_type):
        return f"is for {', '.join(manifest.compatible[:5])}, this device is a {device.device_type}"
    if manifest.profile_for(device.engines) is None:
        wanted = ", ".join(profile.engine for profile in manifest.engines)
        return f"needs the engine {wanted}, this device offers {', '.join(device.engines) or 'none'}"
    return None
