"""What the runtime is told to do, as frozen values; each may be done twice without harm.

`safety` marks actions that are carried out even when the transition could not be persisted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_agent.contract.reasons import Reason
from edge_agent.contract.report import ReportKind


@dataclass(frozen=True, slots=True)
class Action:
    """Base of all actions."""

    model: str
    safety: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Verify(Action):
    """Verify evidence and every byte of this snapshot; answers with VerifyPassed or VerifyFailed."""

    digest: str


@dataclass(frozen=True, slots=True)
class KeepWorkers(Action):
    """Level-triggered: exactly these workers should be loaded, the most urgent first.

    Each shortage is answered with WorkerUp or BringUpFailed; surplus workers end once nothing is routed to them.
    """

    digests: tuple[str, ...]
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Share:
    """Of the live requests so many percent go to this candidate; 0: none, it gets copies of them."""

    digest: str
    percent: int


@dataclass(frozen=True, slots=True)
class Route(Action):
    """Level-triggered: requests go to the workers of this snapshot (None: answer 503 with the reason), but for the
    candidate's share of them.

    Answered with Routed once the front has switched, and with TrialRouted when there is a share. watched: answers are
    counted, and told as Observed.
    """

    digest: str | None
    reason: Reason | None
    share: Share | None = None
    watched: bool = False
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Tell(Action):
    """A fact for the journal and the outbox, persisted with the transition that causes it."""

    kind: ReportKind
    digest: str | None
    version: str | None
    phase: str | None = None
    reason: Reason | None = None
    detail: str = ""
    safety: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class DropOffer(Action):
    """Forget a half-received snapshot (its chunks are collected later)."""

    digest: str
