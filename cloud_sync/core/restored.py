"""Signs that this coordinator's database is behind its devices, and going on above their numbers; pure.

What is stopped meanwhile, and by whom it is started again, is `coordinator`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloud_sync.core.fleet import Rollout
from cloud_sync.core.plan import counting


@dataclass(frozen=True, slots=True)
class Told:
    """What a device says to have had from a coordinator. generations: by model."""

    epoch: int
    revision: int
    generations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Given:
    """What this database knows to have given to that device. generations: of the models that are to be compared."""

    epoch: int
    revision: int
    generations: Mapping[str, int]


def ahead(told: Told, given: Given) -> str | None:
    """How the device is ahead of the database, as a phrase; None when it is not."""
    if told.epoch > given.epoch:
        return f"it took an assignment of epoch {told.epoch}, the repository here names epoch {given.epoch}"
    if 0 < told.epoch < given.epoch:
        return None  # what it tells are the numbers of an earlier coordinator
    if told.revision > given.revision:
        return f"it has revision {told.revision}, this database gave {given.revision}"
    for model, most in sorted(given.generations.items()):
        if told.generations.get(model, 0) > most:
            return f"its {model} has generation {told.generations[model]}, this database gave {most}"
    return None


def renumbered(rollouts: Iterable[Rollout], generations: Mapping[str, int], told: Mapping[str, int]) -> dict[str, int]:
    """New generations, by rollout, for models whose devices have seen higher ones than were given: above those, in the
    order of the rollouts, so that what is wanted here counts again.
    """
    rollouts = counting(rollouts)
    found: dict[str, int] = {}
    for model in sorted(told):
        if told[model] <= generations.get(model, 0):
            continue
        of_model = [rollout for rollout in rollouts if rollout.model == model]
        found.update({rollout.rollout_id: told[model] + place for place, rollout in enumerate(of_model, 1)})
    return found
