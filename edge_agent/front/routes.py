"""The routing table as the runtime tells it, validated; which worker gets which request is `scheduler`'s."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason


class TensorSpec(Struct, frozen=True):
    """One input or output; -1 = free dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class WorkerAddress(Struct, frozen=True):
    """Where a loaded worker listens."""

    worker_id: str
    socket: str


class ShareRoute(Struct, frozen=True):
    """A candidate in trial: of the live requests it gets so many percent, or with 0 copies of them."""

    percent: int
    version: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    workers: tuple[WorkerAddress, ...]


class ModelRoute(Struct, frozen=True):
    """What serves one model now. The first worker computes, the others stand by. watched: answers are counted."""

    state: Literal["serving", "loading", "down"]
    reason: str | None = None
    version: str = ""
    digest: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    workers: tuple[WorkerAddress, ...] = ()
    watched: bool = False
    share: ShareRoute | None = None

    def same_interface(self, other: ModelRoute) -> bool:
        """Whether a request that was checked against one may be computed by the other."""
        return (self.inputs, self.outputs) == (other.inputs, other.outputs)


class Routes(Struct, frozen=True):
    """All routes; a later sequence replaces an earlier one whole. gauges: "name" or "name:model" -> value."""

    sequence: int
    models: dict[str, ModelRoute]
    gauges: dict[str, float] = field(default_factory=dict)


def parse_routes(header: dict[str, Any]) -> Routes:
    """Raises Rejected (malformed)."""
    try:
        return msgspec.convert(header, Routes, strict=True)
    except msgspec.ValidationError as error:
        raise Rejected(f"routes are malformed: {error}", reason=Reason.MALFORMED) from error
