"""How long to wait before trying again; pure, so that the simulator and the runtime agree. Nothing is awaited here, and
whom a death speaks against is `blame`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.contract import limits

RESPAWN_FIRST_S = 0.0  # the first death is answered at once: a request may be waiting
RESPAWN_STEP_S = 0.05
RESPAWN_MAX_S = 1.0  # below the time that the front holds requests, so that a kill a second fails nobody

Deaths = tuple[float, ...]  # monotonic seconds, the newest last


def with_death(deaths: Deaths, now_s: float) -> Deaths:
    """One death more; those outside the window are forgotten, and the oldest of too many."""
    recent = [at_s for at_s in deaths if now_s - at_s <= limits.CRASH_WINDOW_S]
    return (*recent, now_s)[-limits.CRASHES_REMEMBERED_MAX :]


def with_trouble(troubles: Mapping[str, Deaths], digest: str, now_s: float) -> dict[str, Deaths]:
    """A death more of this snapshot's workers. Of too many snapshots the one whose trouble is oldest is forgotten: its
    next worker is started without a pause.
    """
    others = {other: deaths for other, deaths in troubles.items() if other != digest}
    noted = {**others, digest: with_death(troubles.get(digest, ()), now_s)}
    return dict(list(noted.items())[-limits.TROUBLED_SNAPSHOTS_MAX :])


def respawn_delay_s(deaths: Deaths, now_s: float) -> float:
    """Seconds before a worker or child is started again: 0, then 0.05 doubling to at most RESPAWN_MAX_S."""
    recent = sum(1 for at_s in deaths if now_s - at_s <= limits.CRASH_WINDOW_S)
    if recent <= 2:
        return RESPAWN_FIRST_S
    return float(min(RESPAWN_MAX_S, RESPAWN_STEP_S * 2 ** min(recent - 3, 10)))
