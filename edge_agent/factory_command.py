"""Making the factory snapshot from a bundle, verified as at an import; the file's form is `store.factory`'s."""

from __future__ import annotations

import time
from pathlib import Path

from edge_agent.config import Config
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import encode_evidence
from edge_agent.folders import is_writable
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.runtime.library import read_pinned_root, utc_now
from edge_agent.store.factory import write_factory
from edge_agent.trust.chain import verify_offer
from edge_agent.trust.verified import DeviceProfile, TufVersions


def make_factory(config: Config, bundle_path: Path, out: Path, *, renew: bool = False) -> str:
    """Write `out`; the snapshot's label. Raises Rejected or Unavailable."""
    if not out.parent.is_dir() or not is_writable(out.parent):
        raise Rejected(
            f"{out} cannot be written: {out.parent} is no folder that this user may write to",
            next_step="Make that folder first, or name another file with --out",
        )
    with BundleReader(bundle_path) as bundle:
        verified = verify_offer(
            bundle.evidence,
            bundle.manifest_raw,
            pinned_root=read_pinned_root(Path(config.trusted_root)),
            now=utc_now(),
            seen=TufVersions(),
            device=DeviceProfile(config.device_type, tuple(config.engines), frozenset(config.models)),
        )
        write_factory(
            out,
            verified.digest,
            verified.manifest,
            verified.raw,
            encode_evidence(verified.evidence),
            ((sha256, bundle.chunk(sha256)) for sha256 in verified.manifest.chunk_hashes()),
            time.time_ns() // 1_000_000,
            renew=renew,
        )
    return verified.manifest.label()
