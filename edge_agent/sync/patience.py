"""How long to wait before trying again, as pure functions: chance and time come in. What is tried is said elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

DOUBLINGS_MAX = 30  # beyond, every cap is reached
KEYS_MAX = 64  # one for each model slot; the oldest is forgotten


def full_jitter_s(attempt: int, chance: float, *, base_s: float, cap_s: float) -> float:
    """Between 0 and min(cap_s, base_s doubled per attempt). chance: in [0, 1). A fleet that lost its broker comes back
    spread over the whole time, not in waves.
    """
    return float(chance * min(cap_s, base_s * 2.0 ** min(attempt, DOUBLINGS_MAX)))


def pause_s(attempt: int, chance: float, *, base_s: float, cap_s: float) -> float:
    """Like `full_jitter_s`, but never under half of it: for what costs the other side something each time."""
    return float((0.5 + chance / 2) * min(cap_s, base_s * 2.0 ** min(attempt, DOUBLINGS_MAX)))


@dataclass(frozen=True, slots=True)
class Trouble:
    """What failed how often in a row, and the monotonic second before which it is not tried again."""

    attempts: int
    not_before_s: float


@dataclass(frozen=True, slots=True)
class Troubles:
    """The troubles of several things, by key (for downloads: the digest)."""

    by_key: Mapping[str, Trouble] = field(default_factory=lambda: MappingProxyType({}))

    def noted(self, key: str, now_s: float, chance: float, *, base_s: float, cap_s: float) -> Troubles:
        """It failed once more."""
        attempts = self.by_key[key].attempts if key in self.by_key else 0
        wait_s = pause_s(attempts, chance, base_s=base_s, cap_s=cap_s)
        others = {other: trouble for other, trouble in self.by_key.items() if other != key}
        kept = dict(list({**others, key: Trouble(attempts + 1, now_s + wait_s)}.items())[-KEYS_MAX:])
        return replace(self, by_key=MappingProxyType(kept))

    def cleared(self, key: str) -> Troubles:
        """It went well."""
        return replace(self, by_key=MappingProxyType({k: t for k, t in self.by_key.items() if k != key}))

    def wait_s(self, key: str, now_s: float) -> float:
        """Seconds until it may be tried; 0: now."""
        trouble = self.by_key.get(key)
        return max(0.0, trouble.not_before_s - now_s) if trouble else 0.0
