"""`python -m tests.tools.lifecycle_doc` writes docs/lifecycle.md from the core's tables, which say it; nothing is
decided here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from edge_agent.contract import limits
from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.lifecycle import CANDIDATE_TABLE, SERVING_TABLE, Cell, decide
from edge_agent.core.recovery import RESUME_PHASE
from edge_agent.core.state import ModelState, Moment, Phase, Status
from tests.core.table_samples import NOW, C, events_on_the_way, on_the_way
from tests.harness.agent import ROOT

DOCUMENT = ROOT / "docs" / "lifecycle.md"
STATE_FILE = ROOT / "edge_agent" / "core" / "state.py"
State = TypeVar("State", Phase, Status)
SHORT = {Reason.OUT_OF_ORDER: "–"}

HEAD = """\
# The lifecycle of one model slot

Generated from `edge_agent/core/lifecycle.py` and `recovery.py` by `python -m tests.tools.lifecycle_doc`: change the
tables there, then run it again (a test compares).

A slot has two state machines side by side. The **candidate** is the snapshot that is being brought in; its *phase*
says how far it has come. **Serving** is what answers requests; its *status* says how that stands. `decide` looks up
one cell and gives the new state and what to do, or a refusal that changes nothing. Events about
the candidate's digest, and all that an offer says, go by the first table; the others by the second. The event
`Booted` has a table of its own, the last one.

In the cells: the name of the handler, with its module where it is another one than the table's; – is the refusal
`out_of_order`.
"""


WORDS = """\
Drawn by putting sample events to the tables, with a policy of a shadow and shares of 10 and 50 %: an arrow is what
`decide` does. Where nothing serves, or something of another interface, there is no trial: `proven` is followed by
`Routed`. What served before goes on serving; from `probation` it is put back.

**What a stage asks for** is the policy's (`edge_agent/contract/policy.py`; its defaults are in `core/rules.py`):
`agent.toml`, then the assignment's, never below the publisher's minimum. Answers to live requests, copies and
replayed golden vectors count as answers, so that a quiet device comes to an end too; errors, agreement and drift
count live requests and copies alone. What sends a candidate back is in `core/judgement.py`.

**Cut short.** An offer may cut a trial or a probation short: if the newer snapshot does not come to serve, the older
one is watched anew. The same goes for any unconfirmed snapshot that serves as the wanted one. An assignment of a
snapshot that is confirmed here needs no candidate: it is brought up as by a rollback.

**Somebody on the device** who rolls back or pins holds that against the coordinator, until it states a higher
generation of this model. A pinned slot takes nothing but repairs.

**Down and up the ladder.** A fallback goes to the best rung that verifies, loads and proves itself. What had to be
left is tried again by itself: after `retry_s`, then four times as long each time, at most CLIMBS_MAX times in one
generation (`core/upkeep.py`). A start without a clean stop, of which no worker survived, counts against the candidate
that was being tried, or else against what served (`core/recovery.py`); serving for STEADY_S clears that.
"""


def document() -> str:
    """The whole page."""
    comments = _state_comments()
    parts = [
        HEAD,
        "## The way of a candidate\n",
        _diagram(),
        WORDS,
        "## Phases of the candidate\n",
        _meanings(Phase, comments),
        "## Candidate: phase and event\n",
        _table("candidate", CANDIDATE_TABLE),
        "## Statuses of serving\n",
        _meanings(Status, comments),
        "## Serving: status and event\n",
        _table("serving", SERVING_TABLE),
        "## After a start of the runtime, whatever ended it\n",
        "The saved phase, and the phase in which the candidate goes on. A candidate whose bytes are gone is dropped;\n"
        "one whose last chunk came just before the end goes on as `received`.\n",
        "| saved | goes on as |\n|---|---|\n"
        + "".join(f"| {saved} | {resumed} |\n" for saved, resumed in RESUME_PHASE.items()),
    ]
    return "\n".join(parts)


def _diagram() -> str:
    """Every change of place that the tables make of the sample events; what stays where it is is left out."""
    edges: dict[tuple[str, str], list[str]] = {}
    for phase, percent in PLACES:
        state = on_the_way(phase, percent)
        for caption, event in events_on_the_way(percent).items():
            step = decide(state, event, LATE if caption.startswith("Woke") else NOW)
            before, after = _place(state, state), _place(state, step.state)
            captions = edges.setdefault((before, after), [])
            if step.refusal is None and before != after and caption not in captions:
                captions.append(caption)
    lines = [
        f"    {before} --> {after}: {', '.join(captions)}" for (before, after), captions in edges.items() if captions
    ]
    return "```mermaid\n" + "\n".join(["stateDiagram-v2", *lines]) + "\n```\n"


# Each place on the way of a candidate: its phase, and its share of the requests.
PLACES: tuple[tuple[Phase, int | None], ...] = (
    (Phase.NONE, None), (Phase.ASSIGNED, None), (Phase.FETCHING, None), (Phase.RECEIVED, None), (Phase.VERIFIED, None),
    (Phase.PROVEN, 0), (Phase.PROVEN, None), (Phase.TRIAL, 0), (Phase.TRIAL, 10), (Phase.TRIAL, 50),
    (Phase.PROBATION, None),
)  # fmt: skip
LATE = Moment(NOW.monotonic_s + limits.STAGE_OVERTIME_S, NOW.unix_ms)


def _place(old: ModelState, new: ModelState) -> str:
    """Where the candidate is; out of the way it is confirmed, quarantined, declined or gave way."""
    if new.candidate and new.candidate.digest == C.digest:
        if new.phase is Phase.TRIAL or (new.phase is Phase.PROVEN and new.candidate.share_percent):
            percent = new.candidate.share_percent
            return f"trial_{percent}_percent" if percent else "trial_shadow"
        return new.phase.value
    if old.candidate is None:
        return "[*]"
    if any(record.digest == C.digest for record in new.quarantine):
        return "quarantined"
    if new.declined != old.declined:
        return "declined"
    known = new.find(C.digest)
    return "confirmed" if known and known.confirmed_unix_ms else "gave_way"


def _room(cell: Cell) -> str:
    return "" if isinstance(cell, Reason) else cell.__module__.rpartition(".")[2]


def _table(room: str, rows: Mapping[State, Mapping[type[ev.Event], Cell]]) -> str:
    """Events down, states across. room: the module whose handlers are named without it."""
    kinds = list(next(iter(rows.values())))
    lines = [_row(["event", *(state.value for state in rows)]), _row(["---"] * (len(rows) + 1))]
    for kind in kinds:
        lines.append(_row([f"**{kind.__name__}**", *(_word(rows[state][kind], room) for state in rows)]))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _word(cell: Cell, room: str) -> str:
    if isinstance(cell, Reason):
        return SHORT.get(cell, cell.value)
    return cell.__name__ if _room(cell) == room else f"{_room(cell)}.{cell.__name__}"


def _meanings(states: type[Phase] | type[Status], comments: Mapping[str, str]) -> str:
    default = {"none": "there is no candidate"}
    lines = [f"- `{state.value}`: {comments.get(state.value, default.get(state.value, ''))}" for state in states]
    return "\n".join(lines) + "\n"


def _state_comments() -> dict[str, str]:
    """What state.py says beside each value."""
    found = re.findall(r'^    [A-Z]+ = "(\w+)"  # (.+)$', STATE_FILE.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def main(out: Path = DOCUMENT) -> int:
    """Write the page."""
    out.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
