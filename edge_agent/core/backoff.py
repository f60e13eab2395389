"""How long to wait before trying again; pure, so that the simulator and the runtime agree. Nothing is awaited here."""

from __future__ import annotations

RESPAWN_FIRST_S = 0.0  # the first death is answered at once: a request may be waiting
RESPAWN_STEP_S = 0.05
RESPAWN_MAX_S = 1.0  # below the time that the front holds requests, so that a kill a second fails nobody


def respawn_delay_s(deaths_in_window: int) -> float:
    """Seconds before a worker or child is started again: 0, then 0.05 doubling to at most RESPAWN_MAX_S."""
    if deaths_in_window <= 2:
        return RESPAWN_FIRST_S
    return float(min(RESPAWN_MAX_S, RESPAWN_STEP_S * 2 ** min(deaths_in_window - 3, 10)))
