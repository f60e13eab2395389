"""The fallback ladder: which snapshots may serve, in which order; bringing one up is the runtime's work.

Order after activation: wanted → last good → older confirmed, newest first → factory; those with which the device went
down again and again come last. Damaged and quarantined snapshots,
and those that refused to come up in this descent, are no rungs. No rung crosses an interface unless policy says so.
"""

from __future__ import annotations

from edge_agent.contract import limits
from edge_agent.core.state import Known, ModelState


def last_good(state: ModelState) -> Known | None:
    """The newest confirmed snapshot with another digest than the active one; the factory snapshot if there is none."""
    others = [known for known in state.known if known.digest != state.active]
    confirmed = [known for known in others if known.confirmed_unix_ms > 0]
    if confirmed:
        return max(confirmed, key=_confirmation)
    return next((known for known in others if known.factory), None)


def rungs(state: ModelState) -> tuple[str, ...]:
    """Digests that may be brought up now, best first."""
    wanted = state.find(state.wanted)
    confirmed = sorted((k for k in state.known if k.confirmed_unix_ms > 0), key=_confirmation, reverse=True)
    factory = [known for known in state.known if known.factory]
    # A rebuilt state has no confirmations: then the highest release that verifies comes first.
    unconfirmed = sorted(
        (k for k in state.known if wanted is None and not confirmed and not k.factory),
        key=lambda known: known.release,
        reverse=True,
    )
    order = ([wanted] if wanted else []) + confirmed + unconfirmed + factory
    interface = wanted.interface if wanted else (order[0].interface if order else "")
    usable = [
        known
        for known in order
        if _is_usable(state, known) and (state.rules.allow_interface_change or known.interface == interface)
    ]
    # The last resort: one with which the device goes down again and again is better than none.
    steady_first = sorted(usable, key=lambda known: known.unclean_starts > limits.UNCLEAN_STARTS_MAX)
    return tuple(dict.fromkeys(known.digest for known in steady_first))


def next_rung(state: ModelState) -> str | None:
    """The best rung that has not refused to come up in this descent."""
    return next((digest for digest in rungs(state) if digest not in state.refused_rungs), None)


def _is_usable(state: ModelState, known: Known) -> bool:
    return not known.damaged and state.is_quarantined(known.digest) is None


def _confirmation(known: Known) -> tuple[int, int]:
    return known.confirmed_unix_ms, known.release
