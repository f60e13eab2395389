"""The journal told as a story: one sentence a fact, in local time. How lines come to be is `core.effects`'."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from edge_agent.contract.reasons import reason_from_word

# What happened, by the kind of fact; {what} is the snapshot.
KINDS = {
    "assigned": "{what}: assigned by the coordinator",
    "phase": "{what}: {phase}",
    "serving": "{what}: {status}",
    "quarantined": "{what}: quarantined",
    "declined": "{what}: not taken now",
    "refused": "{what}: refused",
    "damage": "{what}: stored bytes are damaged",
    "repaired": "{what}: its stored bytes are whole again",
    "poison": "{what}: a request ended two workers",
    "operator": "{what}: chosen on this device",
}
PHASES = {
    "assigned": "waits to be fetched",
    "fetching": "its bytes are arriving",
    "received": "all of its bytes are here",
    "verified": "signatures and bytes verified",
    "proven": "loaded, and its golden vectors agree",
    "trial": "trial",
    "probation": "answers all requests, watched",
    "confirmed": "confirmed",
}
STATUSES = {
    "empty": "nothing has ever been here",
    "raising": "nothing serves, a snapshot is brought up",
    "up": "serves",
    "changing": "serves while another one is brought up",
    "down": "nothing on this device can serve",
}
SHADOW, SHARE = "shadow", "share "


def told(line: dict[str, Any]) -> str:
    """One line of the journal as one line of text. A word of another agent is told as it stands."""
    at = datetime.fromtimestamp(line["at_unix_ms"] / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    model, version = str(line["model"]), line.get("version")
    kind, phase = str(line.get("kind")), line.get("phase") or ""
    detail = str(line.get("detail") or "")
    values = {
        "what": f"{model} {version}" if version else model,
        "phase": PHASES.get(phase, phase),
        "status": STATUSES.get(phase, phase),
    }
    text = KINDS.get(kind, "{what}: " + kind.replace("{", "(").replace("}", ")")).format(**values)
    if kind == "phase" and detail:
        step, detail = _step(detail), ""
        text += f", {step}"
    reason = _reason(line.get("reason"))
    parts = [text, *([reason[0]] if reason[0] else []), *([detail] if detail else [])]
    following = f". Next: {reason[1]}" if reason[1] and kind in ("quarantined", "declined", "refused") else ""
    return f"{at} " + ": ".join(parts) + following


def _step(detail: str) -> str:
    if detail == SHADOW:
        return "copies of requests (shadow)"
    return f"{detail.removeprefix(SHARE)} of requests" if detail.startswith(SHARE) else detail


def _reason(word: str | None) -> tuple[str, str]:
    """(what it means, with its word; what to do)."""
    if word is None:
        return "", ""
    try:
        reason = reason_from_word(word)
    except KeyError:
        return word, ""
    return f"{reason.log_line} ({word})", reason.next_step
