"""What a seed decides before anything begins: the fleet, the releases and what is wrong with them, how often what
fails. When it happens is drawn on the way (`world`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from edge_agent.contract.policy import Policy
from edge_agent.core.state import Known
from tests.simulation.loop import Chance

MODEL = "m"


class Nature(StrEnum):
    """What a release does where it is bad."""

    GOOD = "good"
    LOAD_FAILED = "load failed"
    LOAD_CRASH = "load crash"
    LOAD_TIMEOUT = "load timeout"
    LOAD_MEMORY = "load memory"
    PROOF = "proof"
    CRASHES = "crashes under requests"
    HANGS = "hangs under requests"
    ERRORS = "errors"
    NON_FINITE = "non-finite"
    DISAGREES = "disagrees"
    DRIFTS = "drifts"
    SLOW = "slow"
    WRONG_LATER = "wrong later"
    WEARS_OUT = "fails some time after it was confirmed"
    TAKES_DOWN = "takes the device down"


@dataclass(frozen=True, slots=True)
class Release:
    """A published snapshot. bad_on: names of the devices on which it has its nature."""

    known: Known
    nature: Nature
    bad_on: frozenset[str]

    @property
    def digest(self) -> str:
        """Of its manifest."""
        return self.known.digest

    def nature_on(self, device: str) -> Nature:
        """What it is there."""
        return self.nature if device in self.bad_on else Nature.GOOD


# What may happen to a device; a seed gives each a weight.
FAULTS = (
    "power_cut", "runtime_killed", "clean_restart", "disk_full", "disk_read_only", "disk_hangs", "chunk_rots",
    "evidence_rots", "worker_killed", "worker_crashes", "partition", "clock_jumps", "conditions", "rollback", "pin",
    "unpin", "import",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that is decided up front. quiet: devices without live requests; loss, doubles, lazy_load (a load fails
    by its surroundings), cut_at_write (a power cut at a commit): one in so many.
    """

    seed: int
    devices: tuple[str, ...]
    lasts_s: int
    releases: tuple[Release, ...]
    factories: bool
    policy: Policy
    fleet_policy: Policy
    minimum: Policy
    retry_s: float
    kept_max: int
    quiet: frozenset[str]
    weights: dict[str, int] = field(hash=False)
    fault_every_s: int
    loss: int
    doubles: int
    delay_ms: int
    wish_every_s: int
    lazy_load: int
    cut_at_write: int


def setting_of(seed: int) -> Setting:
    """The setting of a seed; the same on every machine."""
    chance = Chance(f"holdfast/{seed}/setting")
    crowd = chance.one_in(400)
    count = chance.randint(100, 250) if crowd else chance.choice((1, 1, 1, 2, 2, 3, 4, 8))
    devices = tuple(f"d{number}" for number in range(count))
    wild = chance.choice((0, 1, 1, 2))
    weights = {fault: chance.choice((0, 0, 1, 1, 4)) if wild else 0 for fault in FAULTS}
    return Setting(
        seed=seed,
        devices=devices,
        lasts_s=chance.randint(30, 60) if crowd else chance.choice((60, 120, 240)),
        releases=_releases(chance, devices),
        factories=not chance.one_in(4),
        policy=_policy(chance),
        fleet_policy=chance.choice((Policy(), Policy(), Policy(probation_s=6.0), Policy(shadow_s=0.0))),
        minimum=chance.choice((Policy(), Policy(), Policy(probation_s=9.0, probation_requests_min=8, shadow_s=4.0))),
        retry_s=float(chance.choice((1, 2))),
        kept_max=chance.choice((2, 3, 8)),
        quiet=frozenset(name for name in devices if chance.one_in(3)),
        weights=weights,
        fault_every_s=chance.choice((5, 10, 20)) * (count if crowd else 1),
        loss=chance.choice((0, 0, 20, 4, 2)) if wild else 0,
        doubles=chance.choice((0, 10, 3)) if wild else 0,
        delay_ms=chance.choice((10, 100, 3000)),
        wish_every_s=chance.choice((20, 40, 80)),
        lazy_load=chance.choice((0, 0, 30, 8)) if wild else 0,
        cut_at_write=chance.choice((0, 0, 60, 20)) if wild and not crowd else 0,
    )


def _policy(chance: Chance) -> Policy:
    if chance.one_in(4):
        return Policy(shadow_s=0.0, share_percents=(), probation_s=5.0, probation_requests_min=0, unclean_starts_max=1)
    return Policy(
        shadow_s=float(chance.choice((0, 3, 5))),
        shadow_requests_min=chance.choice((0, 4)),
        share_percents=chance.choice(((), (10,), (10, 50))),
        share_step_s=3.0,
        share_requests_min=chance.choice((0, 4)),
        probation_s=float(chance.choice((4, 8))),
        probation_requests_min=chance.choice((0, 5)),
        unclean_starts_max=chance.choice((0, 1, 2)),
        allow_interface_change=chance.choice((None, None, True)),
    )


def _releases(chance: Chance, devices: tuple[str, ...]) -> tuple[Release, ...]:
    """The factory's first; it is good."""
    found = []
    for number in range(chance.randint(3, 6)):
        digest = hashlib.sha256(f"{chance.name}/{number}".encode()).hexdigest()
        interface = "other" if number and chance.one_in(10) else "i"
        known = Known(digest, f"{number}.0", number + 1, interface)
        nature = Nature.GOOD if number == 0 or chance.one_in(2) else chance.choice(tuple(Nature)[1:])
        everywhere = chance.one_in(2)
        bad_on = frozenset(name for name in devices if everywhere or chance.one_in(2))
        found.append(Release(known, nature, bad_on))
    return tuple(found)
