"""A candidate beside what serves, pure: which requests are of its share, which answers are copied to it. Its workers
and queue are a `scheduler` of their own; sockets are `link`'s, what the answers say is `observing`'s.
"""

from __future__ import annotations

from typing import Any

from edge_agent.front.routes import ModelRoute, ShareRoute
from edge_agent.front.scheduler import Job, ModelScheduler

COPIES_MAX = 2  # one is computed, one waits: more would only grow old, and take time from what serves
SHARE_WAITING_MAX = 4  # of the share, beyond those at the worker; the active snapshot takes the next ones
PATIENCE_RATIO = 0.5  # of a request's time; the other half is left for the active snapshot to answer in its place
NOBODY = ModelRoute(state="down")


class Trial:
    """The candidate of one model, or the last that there was. patience_s: how long it may take for one request."""

    def __init__(self, deadline_s: float) -> None:
        self.patience_s = deadline_s * PATIENCE_RATIO
        self.scheduler = ModelScheduler(SHARE_WAITING_MAX, self.patience_s)
        self.share: ShareRoute | None = None
        self.route = NOBODY
        self._owed = 0  # percents of a request

    @property
    def is_over(self) -> bool:
        """Whether there is no candidate any more, and nothing at its workers."""
        return self.share is None and self.scheduler.is_empty()

    def set_share(self, share: ShareRoute | None) -> None:
        """This candidate and percent from now on."""
        if share is None or self.share is None or share.percent != self.share.percent:
            self._owed = 0
        self.share, self.route = share, route_of(share)

    def takes_request(self) -> bool:
        """Whether the next live request is of the share. So many percent of them are, evenly, while a worker is there
        to take them; what a busy candidate cannot take is not made up for.
        """
        if self.share is None or not self.share.percent or not self.scheduler.is_ready():
            return False
        self._owed += self.share.percent
        if self._owed < 100:
            return False
        self._owed -= 100
        return self.scheduler.waiting < SHARE_WAITING_MAX

    def takes_copy(self) -> bool:
        """Whether a copy of an answered request would be computed soon; otherwise it is dropped."""
        if self.scheduler.waiting + self.scheduler.in_flight >= COPIES_MAX:
            return False
        return self.share is not None and not self.share.percent and self.scheduler.is_ready()

    def job(self, payload: Any, now_s: float) -> Job:
        """A request for the candidate: computed once, given up early, held for nobody."""
        return Job(payload, self.route, now_s + self.patience_s, hold_until_s=now_s, once=True)


def route_of(share: ShareRoute | None) -> ModelRoute:
    """The candidate's route, as if it served."""
    if share is None:
        return NOBODY
    return ModelRoute("serving", None, share.version, share.digest, share.inputs, share.outputs, share.workers)


def can_be_tried(route: ModelRoute) -> bool:
    """Whether the candidate takes and gives the same tensors as what serves: else nothing could be compared."""
    return route.share is not None and route_of(route.share).same_interface(route)
