"""`python -m tests.tools.lifecycle_doc` writes docs/lifecycle.md from the core's tables, which say it; nothing is
decided here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from edge_agent.contract.reasons import Reason
from edge_agent.core import events as ev
from edge_agent.core.lifecycle import CANDIDATE_TABLE, SERVING_TABLE, Cell
from edge_agent.core.recovery import RESUME_PHASE
from edge_agent.core.state import Phase, Status
from tests.harness.agent import ROOT

DOCUMENT = ROOT / "docs" / "lifecycle.md"
STATE_FILE = ROOT / "edge_agent" / "core" / "state.py"
State = TypeVar("State", Phase, Status)
SHORT = {Reason.OUT_OF_ORDER: "–", Reason.NOT_BUILT: "*not built*"}

HEAD = """\
# The lifecycle of one model slot

Generated from `edge_agent/core/lifecycle.py` and `recovery.py` by `python -m tests.tools.lifecycle_doc`: change the
tables there, then run it again (a test compares).

A slot has two state machines side by side. The **candidate** is the snapshot that is being brought in; its *phase*
says how far it has come. **Serving** is what answers requests; its *status* says how that stands. `decide` looks up
one cell and gives the new state and what to do, or a refusal that changes nothing. Events about
the candidate's digest, and all that an offer says, go by the first table; the others by the second. The event
`Booted` has a table of its own, the last one.

In the cells: the name of the handler (in `candidate.py`, `serving.py` or `assignment.py`); – is the refusal
`out_of_order`; *not built* is the refusal `not_built`: that step comes with a later version.
"""


def document() -> str:
    """The whole page."""
    comments = _state_comments()
    parts = [
        HEAD,
        "## The way of a candidate\n",
        _diagram(),
        "`set_aside` is quarantined, or declined when the reason is no failure of the snapshot (docs/reasons.md).\n"
        "What served before goes on serving; from `probation` it is put back. An operator's rollback ends a candidate\n"
        "as well. An offer may cut a probation short: if the newer snapshot does not come to serve, the older one is\n"
        "watched anew. The same goes for any unconfirmed snapshot that serves as the wanted one\n"
        "(`watch_unconfirmed`). An assignment of a snapshot that is confirmed here needs no candidate: it is brought\n"
        "up as by a rollback; one that is here and not confirmed begins as `received`. What somebody on the device\n"
        "chose holds until a later generation is assigned.\n",
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
    """The straight way, as the order of `Phase` has it; phases without any handler are marked."""
    built = [phase for phase in Phase if phase is not Phase.NONE and _is_built(phase)]
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {Phase.ASSIGNED}: AssignmentTaken", f"    [*] --> {Phase.FETCHING}: OfferBegun (by hand)"]
    lines += [f"    {one} --> {two}: {_steps(one)}" for one, two in pairwise(built)]
    lines.append(f"    {built[-1]} --> confirmed: Woke (probation_s have passed)")
    lines += [f"    {phase} --> set_aside: {', '.join(failures)}" for phase in built if (failures := _failures(phase))]
    lines.append(f"    {Phase.FETCHING} --> [*]: OfferAbandoned")
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


FORWARD = (
    ev.OfferCompleted,
    ev.VerifyPassed,
    ev.WorkerUp,
    ev.Routed,
    ev.OfferBegun,
)  # in the order of the phases that they end
FAILURES = (ev.VerifyFailed, ev.BringUpFailed, ev.WorkerCrashed)


def _steps(phase: Phase) -> str:
    """The event that takes a candidate on from this phase: the one whose handler is of `candidate`."""
    row = CANDIDATE_TABLE[phase]
    return next(kind.__name__ for kind in FORWARD if _room(row[kind]) == "candidate")


def _failures(phase: Phase) -> list[str]:
    row = CANDIDATE_TABLE[phase]
    return [kind.__name__ for kind in FAILURES if _room(row[kind]) == "candidate"]


def _is_built(phase: Phase) -> bool:
    return any(_room(cell) == "candidate" for kind, cell in CANDIDATE_TABLE[phase].items() if kind is not ev.Woke)


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
