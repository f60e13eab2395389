"""Policy: what an update has to show before it is confirmed, as publisher, coordinator and agent.toml each state it.
What holds when they are put together is decided in `core`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edge_agent.contract import canonical
from edge_agent.contract.limits import POLICY_BYTES_MAX, SHARE_STEPS_MAX

Seconds = Annotated[float, Meta(ge=0, le=30 * 86400)]
Requests = Annotated[int, Meta(ge=0, le=1_000_000)]
Percent = Annotated[float, Meta(ge=0, le=100)]
SharePercent = Annotated[int, Meta(ge=1, le=99)]


class Policy(Struct, frozen=True, omit_defaults=True):
    """A value that is left out (None) is somebody else's to say, and has a default in `core.rules` in the end.

    Shadow: for shadow_s and shadow_requests_min answers the candidate gets copies of live requests. Share: percents of
    the live requests one after the other, each for share_step_s and share_requests_min answers; shadow_s = 0 and
    share_percents = [] leave that part of the trial out. Probation: all requests, for probation_s and
    probation_requests_min answers. Golden vectors that the device replays count as answers.

    error_percent_max: answers that are errors of the model. latency_percentile of the candidate's answers may take
    latency_ratio_max times as long as the active one's. agreement_percent_min: copies on which both decide alike.
    drift_max: distance between the distributions of both models' decisions, 0 (same) to 1 (total variation).
    unclean_starts_max: starts after a crash or a power cut while the candidate was tried; one more quarantines it.
    """

    shadow_s: Seconds | None = None
    shadow_requests_min: Requests | None = None
    share_percents: Annotated[tuple[SharePercent, ...], Meta(max_length=SHARE_STEPS_MAX)] | None = None
    share_step_s: Seconds | None = None
    share_requests_min: Requests | None = None
    probation_s: Seconds | None = None
    probation_requests_min: Requests | None = None
    error_percent_max: Percent | None = None
    latency_percentile: Annotated[float, Meta(gt=0, le=100)] | None = None
    latency_ratio_max: Annotated[float, Meta(ge=1, le=1000)] | None = None
    agreement_percent_min: Percent | None = None
    drift_max: Annotated[float, Meta(ge=0, le=1)] | None = None
    unclean_starts_max: Annotated[int, Meta(ge=0, le=100)] | None = None
    allow_interface_change: bool | None = None


NO_POLICY = Policy()  # nothing is stated


def encode_policy(policy: Policy) -> str:
    """As it stands in signed metadata."""
    return canonical.encode(policy).decode()


def parse_policy(text: str) -> Policy:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(text.encode(), Policy, bytes_max=POLICY_BYTES_MAX)
