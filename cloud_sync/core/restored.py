"""Signs that this coordinator's database is behind its devices, and going on above their numbers; pure.

What is stopped meanwhile, and by whom it is started again, is `coordinator`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloud_sync.core.fleet import Rollout
from cloud_sync.core.plan import superseded


@dataclass(frozen=True, slots=True)
class Told:
    """What a device says to have had from a coordinator.

    generations: by model. acknowledged: reports of its incarnation that were said to be committed, 0 where it did not
    say.
    """

    epoch: int
    revision: int
    generations: Mapping[str, int]
    acknowledged: int = 0


@dataclass(frozen=True, slots=True)
class Given:
    """What this database knows to have given to that device; generations: to anybody."""

    epoch: int
    revision: int
    generations: Mapping[str, int]
    committed: int = 0


def ahead(told: Told, given: Given) -> str | None:
    """How the device is ahead of the database, as a phrase; None when it is not."""
    if told.epoch > given.epoch:
        return f"it took an assignment of epoch {told.epoch}, the repository here names epoch {given.epoch}"
    if told.epoch == given.epoch and told.revision > given.revision:
        return f"it has revision {told.revision}, this database gave {given.revision}"
    if told.acknowledged > given.committed:
        return f"it was told that {told.acknowledged} reports are committed, this database has {given.committed}"
    for model, generation in sorted(told.generations.items()):
        if generation > given.generations.get(model, 0):
            return f"its {model} has generation {generation}, this database gave {given.generations.get(model, 0)}"
    return None


def renumbered(rollouts: Iterable[Rollout], generations: Mapping[str, int], told: Mapping[str, int]) -> dict[str, int]:
    """New generations, by rollout, for models whose devices have seen higher ones than were given: above those, in the
    order of the rollouts, so that what is wanted here counts again.
    """
    rollouts = sorted(rollouts, key=lambda rollout: rollout.number)
    found: dict[str, int] = {}
    for model in sorted(told):
        if told[model] <= generations.get(model, 0):
            continue
        standing = [r for r in rollouts if r.model == model and not superseded(r, rollouts)]
        found.update({r.rollout_id: told[model] + place for place, r in enumerate(standing, 1)})
    return found
