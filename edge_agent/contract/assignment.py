"""The assignment: the signed desired state of one device, as frozen validated types; who signs it is in `trust`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import Count, DeviceId, Label, Name, Sha256, Version
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason


class ModelAssignment(Struct, frozen=True):
    """What one model slot should run. `generation` grows only by an operator's intent for this model."""

    digest: Sha256
    version: Version
    generation: Count
    policy: Policy = Policy()


class Assignment(Struct, frozen=True):
    """Desired state of one device; a later (epoch, revision) replaces an earlier one whole."""

    device_id: DeviceId
    epoch: Count
    revision: Count
    models: dict[Name, ModelAssignment]
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


def parse_assignment(raw: bytes) -> Assignment:
    """Canonical bytes in, validated assignment out. Raises Rejected: too_large or malformed."""
    assignment = canonical.decode(raw, Assignment, bytes_max=limits.ASSIGNMENT_BYTES_MAX)
    if len(assignment.models) > limits.MODELS_PER_DEVICE_MAX:
        raise Rejected(
            f"Assignment names {len(assignment.models)} models, at most {limits.MODELS_PER_DEVICE_MAX}",
            reason=Reason.TOO_LARGE,
        )
    return assignment
