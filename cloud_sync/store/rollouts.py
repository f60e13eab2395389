"""Rows of rollouts and generations, and what the coordinator remembers of itself; planning is `core`'s."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from cloud_sync.core.fleet import Halt, Kind, Rollout, Strategy
from cloud_sync.store.tables import generations, meta, rollouts
from edge_agent.contract.policy import Policy

PLANNING_STOPPED = "planning_stopped"
RESUMES = "resumes"


def all_rollouts(connection: Connection) -> list[Rollout]:
    """Every rollout, oldest first."""
    return [
        Rollout(
            rollout_id=row.rollout_id,
            number=row.number,
            model=row.model,
            version=row.version,
            digest=row.digest,
            generation=row.generation,
            created_unix_ms=row.created_unix_ms,
            strategy=Strategy(row.strategy),
            kind=Kind(row.kind),
            devices=None if row.devices is None else frozenset(row.devices),
            refused_before=frozenset((device, reason) for device, reason in row.refused_before),
            halted=None if row.halted_device is None else Halt(row.halted_device, row.halted_reason),
            policy=msgspec.convert(row.policy or {}, Policy),
        )
        for row in connection.execute(select(rollouts).order_by(rollouts.c.number))
    ]


def write_rollout(connection: Connection, rollout: Rollout) -> None:
    """Insert or change."""
    halted = rollout.halted
    values = {
        "rollout_id": rollout.rollout_id,
        "model": rollout.model,
        "version": rollout.version,
        "digest": rollout.digest,
        "generation": rollout.generation,
        "created_unix_ms": rollout.created_unix_ms,
        "strategy": rollout.strategy.value,
        "kind": rollout.kind.value,
        "devices": None if rollout.devices is None else sorted(rollout.devices),
        "refused_before": sorted(list(pair) for pair in rollout.refused_before),
        "policy": msgspec.to_builtins(rollout.policy),
        "halted_device": halted.device_id if halted else None,
        "halted_reason": halted.reason if halted else None,
    }
    connection.execute(
        insert(rollouts)
        .values(number=rollout.number, **values)
        .on_conflict_do_update(index_elements=["number"], set_=values)
    )
    raise_generation(connection, rollout.model, rollout.generation)


def forget_rollout(connection: Connection, rollout_id: str) -> None:
    """Take it out of the history."""
    connection.execute(delete(rollouts).where(rollouts.c.rollout_id == rollout_id))


def halt_rollout(connection: Connection, rollout_id: str, halt: Halt) -> None:
    """Remember why it goes no further; the first reason stays."""
    connection.execute(
        update(rollouts)
        .where(rollouts.c.rollout_id == rollout_id, rollouts.c.halted_device.is_(None))
        .values(halted_device=halt.device_id, halted_reason=halt.reason)
    )


def raise_generation(connection: Connection, model: str, generation: int) -> None:
    """No rollout of this model gets this generation, or a lower one, from now on."""
    statement = insert(generations).values(model=model, generation=generation)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["model"],
            set_={"generation": generation},
            where=generations.c.generation < generation,
        )
    )


def all_generations(connection: Connection) -> dict[str, int]:
    """The highest generation of every model."""
    return {row.model: row.generation for row in connection.execute(select(generations))}


def remember(connection: Connection, key: str, value: str | None) -> None:
    """Keep this about the coordinator itself; None forgets it."""
    if value is None:
        connection.execute(delete(meta).where(meta.c.key == key))
        return
    connection.execute(
        insert(meta).values(key=key, value=value).on_conflict_do_update(index_elements=["key"], set_={"value": value})
    )


def remembered(connection: Connection) -> dict[str, str]:
    """All that is kept about the coordinator itself."""
    return {row.key: row.value for row in connection.execute(select(meta))}
