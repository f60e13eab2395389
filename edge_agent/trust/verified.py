"""What verification gives and asks for: VerifiedManifest, TUF versions, device profile.

How to verify is chain.py's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass

from edge_agent.contract.errors import Bug
from edge_agent.contract.evidence import Evidence
from edge_agent.contract.manifest import Manifest

# Who holds this object may state that something is verified: chain.py alone (a test looks).
VERIFICATION = object()


@dataclass(frozen=True, slots=True)
class TufVersions:
    """Versions of the four roles: of one verified chain, or the highest that a device has seen (its high-water marks;
    0: none)."""

    root: int = 0
    timestamp: int = 0
    tuf_snapshot: int = 0
    targets: int = 0

    def highest(self, other: TufVersions) -> TufVersions:
        """What to remember after `other` was seen as well: under one root, per role the greater version.

        Of two roots the newer one's marks stand alone: it may have voided what a rotated key had signed (TUF 5.3.11),
        and who took it in has compared its metadata with the marks before.
        """
        if self.root != other.root:
            return self if self.root > other.root else other
        return TufVersions(
            root=self.root,
            timestamp=max(self.timestamp, other.timestamp),
            tuf_snapshot=max(self.tuf_snapshot, other.tuf_snapshot),
            targets=max(self.targets, other.targets),
        )


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What this device is: its type, the engines that it offers, the model slots that it runs (names)."""

    device_type: str
    engines: tuple[str, ...]
    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """A manifest whose bytes lead back to the pinned root; only verification can build one.

    manifest, raw, digest: the parsed manifest, its bytes, their SHA-256. evidence: what admitted it, to be
    stored with it. versions: of the metadata in the evidence. floors: the publisher's lowest release per
    model name.
    """

    manifest: Manifest
    raw: bytes
    digest: str
    evidence: Evidence
    versions: TufVersions
    floors: Mapping[str, int]
    verification: InitVar[object]

    def __post_init__(self, verification: object) -> None:
        if verification is not VERIFICATION:
            raise Bug("a VerifiedManifest was built without verification")
