"""What a device says of itself on connecting: hello and presence, as frozen validated types; facts are `report`'s."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.manifest import Count, DeviceId, Label, Name, Sha256

CONTRACT_VERSIONS = (1,)  # of the documents of this package; the highest that both sides speak counts


class Hello(Struct, frozen=True):
    """The first message of a connection: who is there, and how far it has come.

    epoch, revision: of the last assignment that was taken, 0 = none. acknowledged: reports of this incarnation that
    the coordinator said to have committed. state_digest: SHA-256 of the state document that follows.
    """

    device_id: DeviceId
    connection_id: Label
    agent_version: Label
    contracts: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=limits.CONTRACTS_MAX)]
    device_type: Label
    models: Annotated[tuple[Name, ...], Meta(max_length=limits.MODELS_PER_DEVICE_MAX)]
    engines: Annotated[tuple[Label, ...], Meta(max_length=limits.MODELS_PER_DEVICE_MAX)]
    incarnation: Label
    acknowledged: Count
    epoch: Count
    revision: Count
    state_digest: Sha256
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


class Presence(Struct, frozen=True):
    """Said on connecting and by the broker's last will; `connection_id` tells a new connection from an old will."""

    device_id: DeviceId
    connection_id: Label
    online: bool
    agent_version: Label
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


class CoordinatorHere(Struct, frozen=True):
    """To all devices: a coordinator has connected. Each says hello again, after a random pause of up to spread_s."""

    connection_id: Label
    spread_s: Annotated[float, Meta(ge=0, le=3600)]
    contracts: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=limits.CONTRACTS_MAX)]
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()


def parse_hello(raw: bytes) -> Hello:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, Hello, bytes_max=limits.PRESENCE_BYTES_MAX)


def parse_presence(raw: bytes) -> Presence:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, Presence, bytes_max=limits.PRESENCE_BYTES_MAX)


def parse_coordinator_here(raw: bytes) -> CoordinatorHere:
    """Raises Rejected: too_large or malformed."""
    return canonical.decode(raw, CoordinatorHere, bytes_max=limits.PRESENCE_BYTES_MAX)
