"""What the publisher states for a model beside its snapshots, put to the core; that it is signed and not older than
what was seen is checked by whoever brings it.
"""

from __future__ import annotations

from edge_agent.contract.evidence import Evidence
from edge_agent.contract.policy import Policy
from edge_agent.core import events as ev
from edge_agent.runtime.executor import Executor
from edge_agent.trust.chain import stated_minimums


class PublisherWord:
    """The newest verified metadata counts, whether it came with an offer or with a refresh."""

    def __init__(self, executor: Executor, pinned_root: bytes) -> None:
        self._executor = executor
        self._pinned_root = pinned_root

    async def heard(self, evidence: Evidence) -> None:
        """Raises Rejected (malformed) for a statement that this version cannot read: nothing is taken then."""
        minimums = stated_minimums(evidence, self._pinned_root)
        for state in self._executor.states():
            minimum = minimums.get(state.model, Policy())
            if minimum != state.minimum:
                await self._executor.post(ev.MinimumStated(state.model, minimum))
