"""The rules in force for one update: policies put together, the publisher's minimum last; pure. How an update fares
under them is `judgement`'s.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from edge_agent.contract.policy import Policy


@dataclass(frozen=True, slots=True)
class Rules:
    """`contract.policy` with a value for everything; the defaults are for a device of which nobody said anything.

    A minute of copies, then 10, 25 and 50 % for a minute each, then five minutes of all requests: long enough for a
    fault that shows at ordinary load, short enough for a fleet to be updated within an hour.
    """

    shadow_s: float = 60.0
    shadow_requests_min: int = 20
    share_percents: tuple[int, ...] = (10, 25, 50)
    share_step_s: float = 60.0
    share_requests_min: int = 20
    probation_s: float = 300.0
    probation_requests_min: int = 20
    error_percent_max: float = 1.0
    latency_percentile: float = 95.0
    latency_ratio_max: float = 2.0
    agreement_percent_min: float = 80.0
    drift_max: float = 0.25
    unclean_starts_max: int = 2
    allow_interface_change: bool = False

    @property
    def steps(self) -> tuple[int, ...]:
        """The percents that a trial goes through; 0 is the shadow. Empty: no trial."""
        shadow = (0,) if self.shadow_s > 0 else ()
        return (*shadow, *sorted(set(self.share_percents)))


# Which of two values is the stricter one. Not here: latency_percentile (another question, not a stricter one).
_LONGER = ("shadow_s", "share_step_s", "probation_s")
_MORE = ("shadow_requests_min", "share_requests_min", "probation_requests_min", "agreement_percent_min")
_LESS = ("error_percent_max", "latency_ratio_max", "drift_max", "unclean_starts_max")


def rules_of(*policies: Policy) -> Rules:
    """Each policy overrides the ones before it where it says anything."""
    stated: dict[str, Any] = {}
    for policy in policies:
        stated |= {name: value for name in _NAMES if (value := getattr(policy, name)) is not None}
    return Rules(**stated)


def at_least(rules: Rules, minimum: Policy) -> Rules:
    """The rules, stricter where they are below the publisher's minimum.

    A share that the minimum asks for is gone through when the rules have none; an interface change that it forbids
    (False) stays forbidden.
    """
    mine, least = asdict(rules), {name: getattr(minimum, name) for name in _NAMES}
    stricter: dict[str, Any] = {}
    for name in (*_LONGER, *_MORE):
        if least[name] is not None:
            stricter[name] = max(mine[name], least[name])
    for name in _LESS:
        if least[name] is not None:
            stricter[name] = min(mine[name], least[name])
    if least["share_percents"] and not rules.share_percents:
        stricter["share_percents"] = least["share_percents"]
    if least["allow_interface_change"] is False:
        stricter["allow_interface_change"] = False
    return replace(rules, **stricter)


_NAMES = tuple(field.name for field in fields(Rules))
