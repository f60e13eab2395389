"""Follows a rollout until it has ended or the time is over, and says how that is to be judged.

What starts one is rollouts.py's; how far each device has come is computed by the coordinator.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cloud_sync.client.api import Coordinator, Told
from cloud_sync.client.documents import Rollout
from cloud_sync.operator_cli.output import printable
from edge_agent.contract.errors import HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason, reason_from_word

LOOK_S = 0.5  # a person sees a change at once; a thousand operators would be 2,000 small requests a second
AWAY_S = 60.0  # a coordinator that is restarted is waited for so long
NAMED_MAX = 5  # devices named in one line

# How a device's stages follow each other; the words are the coordinator's.
STAGES = ("pending", "offline", "assigned", "fetching", "proving", "probation", "failed", "done")
RUNNING, DONE, HALTED, SUPERSEDED = "running", "done", "halted", "superseded"


def follow(
    coordinator: Coordinator, first: Told[Rollout], wait_s: float | None, *, away_s: float = AWAY_S
) -> Told[Rollout]:
    """Look again and again until the rollout has ended or wait_s (seconds; None: no bound) is over; the last look.

    Raises Unavailable when the coordinator stays away for away_s.
    """
    with RolloutProgress(first.view) as shown:
        last = first
        for last in _looks(coordinator, first, wait_s, away_s, shown):
            shown.update(last.view)
        return last


def judge(rollout: Rollout, waited_s: float | None = None) -> HoldfastError | None:
    """None when it is done; else what an operator has to know, after waiting so many seconds."""
    label = f"{rollout.model}@{rollout.version}"
    which = f"{rollout.kind} {rollout.id} ({label})"
    if rollout.state == SUPERSEDED:
        return Unavailable(f"{which} was superseded by a newer one", reason=Reason.SUPERSEDED)
    failed = names_of(rollout, "failed")
    if rollout.state == HALTED or (rollout.state == DONE and failed):
        by = rollout.halted_by
        cause = f"{by.device_id} turned it away: {by.reason}" if by else f"it failed on {failed}"
        others = f"; failed on {failed}" if by and failed and failed != by.device_id else ""
        return Rejected(
            f"{which} was halted: {cause}{others}",
            reason=_known(by.reason) if by else None,
            next_step=f"See `fleet rollout status {rollout.id}`; go back with `fleet rollback {rollout.model} --to …`,"
            " or mend the model and publish a new version",
        )
    if rollout.state == DONE:
        return None
    waiting = "; ".join(f"{stage}: {names_of(rollout, stage)}" for stage in STAGES[:-1] if names_of(rollout, stage))
    return Unavailable(
        f"{which} is not done after {waited_s or 0:g} s ({summary(rollout)}){'; ' if waiting else ''}{waiting}",
        next_step=f"It goes on by itself; follow it with `fleet rollout status {rollout.id} --watch`",
    )


def names_of(rollout: Rollout, stage: str) -> str:
    """The devices that are there, the first few by name."""
    names = sorted(device_id for device_id, at in rollout.devices.items() if at == stage)
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def summary(rollout: Rollout) -> str:
    """How many devices are where, in the order of the stages."""
    counts = Counter(rollout.devices.values())
    order = [*STAGES, *sorted(set(counts) - set(STAGES))]
    return ", ".join(f"{counts[stage]} {stage}" for stage in order if counts[stage]) or "no devices"


class RolloutProgress(AbstractContextManager["RolloutProgress"]):
    """A bar with the devices that are done, on stderr; a line per change where stderr is no terminal."""

    def __init__(self, rollout: Rollout) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[stages]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._label = printable(f"{rollout.model}@{rollout.version}")
        self._task = self._bar.add_task(self._label, total=None, stages="")
        self._told = ""

    def __enter__(self) -> RolloutProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def update(self, rollout: Rollout) -> None:
        """Show where it is now."""
        stages = printable(summary(rollout))
        done = sum(stage == DONE for stage in rollout.devices.values())
        self._bar.update(self._task, completed=done, total=len(rollout.devices), stages=stages)
        if self._bar.disable and stages != self._told:
            self.say(f"{self._label}: {stages}")
        self._told = stages


def _looks(
    coordinator: Coordinator, first: Told[Rollout], wait_s: float | None, away_s: float, shown: RolloutProgress
) -> Iterator[Told[Rollout]]:
    """The rollout, now and whenever it was looked at again; ends with it or with the time."""
    began = heard = time.monotonic()
    last, is_away = first, False
    yield last
    while last.view.state == RUNNING:
        left_s = LOOK_S if wait_s is None else began + wait_s - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(LOOK_S, left_s))
        try:
            last = coordinator.rollout(first.view.id)
        except Unavailable as error:
            if time.monotonic() - heard > away_s:
                raise
            if not is_away:
                shown.say(f"{error.message}; it is waited for")
            is_away = True
            continue
        heard, is_away = time.monotonic(), False
        yield last


def _known(word: str) -> Reason | None:
    try:
        return reason_from_word(word)
    except KeyError:
        return None
