"""A power cut at any place of a whole update, with anything lost that was not synced: the store opens, and keeps what
it promised.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.runtime import authority
from edge_agent.store.agent_db import AgentDb
from tests.faults.conftest import cases
from tests.images.checks import REPORTS_MAX, SQLITE, Found, Promises, key_of, look
from tests.images.conftest import FIGURES, Recorded
from tests.images.disk import Call, Disk, Image, Word

SUBSETS = cases(1, 200)  # of what was not synced, at each place
MEMORY = "/dev/shm"
ONE, THREE = ("1.0.0",), ("1.0.0", "1.1.0", "1.2.0")
LOST = {  # what is left out: in the update of these releases, since when, and which promise it breaks
    "databases": (ONE, "state", "the state is the last one committed"),
    "admission": (ONE, "admit", "an admitted snapshot is there"),
    "shrinking": (THREE, "remove", "both databases are sound"),
    "small_files": (ONE, "marks", "no copy of the marks is lower"),
}


@dataclass
class Campaign:
    """Opens images, each once, and compares what is found with what was promised at its place."""

    calls: list[Call]
    promises: Promises
    subsets: int
    since: str | None = None  # the first word of this kind; None: from the beginning
    places: int = 0
    images: int = 0
    found: dict[bytes, Found] = field(default_factory=dict)

    def broken(self) -> Iterator[str]:
        """Every promise that an image breaks, with its place."""
        disk, began = Disk(), self.since is None
        folder = Path(tempfile.mkdtemp(prefix="hf-images-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        try:
            for place, call in enumerate((None, *self.calls)):
                if isinstance(call, Word):
                    self.promises.hear(call)
                elif call is not None:
                    disk.apply(call)
                began = began or (isinstance(call, Word) and call.kind == self.since)
                if not began:
                    continue
                self.places += not isinstance(call, Word)
                for kind, image in _images(disk, place, self.subsets):
                    self.images += 1
                    for words in self.promises.broken_by(self._look(image, folder / "state")):
                        yield f"not so after call {place} ({_shown(call)}), {kind}: {words}"
        finally:
            shutil.rmtree(folder)

    def _look(self, image: Image, folder: Path) -> Found:
        key = key_of(image)
        if key not in self.found:
            self.found[key] = look(image, folder)
            shutil.rmtree(folder)
        return self.found[key]


def _images(disk: Disk, place: int, subsets: int) -> Iterator[tuple[str, Image]]:
    yield "all kept", disk.all_kept()
    if disk.loses_something():
        yield "all lost that was not synced", disk.synced_only()
        yield "all names lost that were not synced", disk.names_lost()
        yield "all bytes lost that were not synced", disk.bytes_lost()
        for seed in range(subsets):
            yield f"some lost or torn, seed {place}/{seed}", disk.some_kept(random.Random(f"{place}/{seed}"))


def _shown(call: Call | None) -> str:
    return (
        "none" if call is None else f"{type(call).__name__} {getattr(call, 'name', getattr(call, 'kind', ''))}".strip()
    )


def promises_of(state_dir: Path, calls: list[Call]) -> Promises:
    """Nothing is promised yet; reports and metadata as the whole update left and kept them."""
    agent = AgentDb(state_dir / "agent.db")
    try:
        reports = agent.outbox(oldest=REPORTS_MAX)
    finally:
        agent.close()
    assert [number for number, _ in reports] == list(range(1, len(reports) + 1))
    disk, kept = Disk(), set()
    for call in calls:
        disk.apply(call)
        if call == Word("done", "metadata", {}):
            kept.add(disk.all_kept()[authority.FILE_NAME])
    return Promises(reports, frozenset(kept))


def test_a_power_cut_at_any_place_of_an_update_costs_nothing_that_was_promised(
    record_update: Callable[..., Recorded], record_property: Callable[[str, object], None]
) -> None:
    calls, state_dir = record_update(*THREE)
    campaign = Campaign(calls, promises_of(state_dir, calls), SUBSETS)
    began_s = time.monotonic()
    broken = list(campaign.broken())
    took_s = time.monotonic() - began_s
    kinds = {call.kind for call in calls if isinstance(call, Word)}
    assert kinds == {"state", "boot", "marks", "metadata", "admit", "remove", "damage"}, "the update is a whole one"
    record_property(
        FIGURES,
        f"{campaign.places} places of a power cut in one update, {campaign.images} images, {len(campaign.found)}"
        f" different ones opened, {len(broken)} broken promises; SQLite {SQLITE}, {took_s:.1f} s",
    )
    assert not broken, "\n".join(broken[:20])


@pytest.mark.parametrize("sabotage", LOST)
def test_a_sync_that_is_left_out_is_found(record_update: Callable[..., Recorded], sabotage: str) -> None:
    versions, since, lost = LOST[sabotage]
    calls, state_dir = record_update(*versions, sabotage=sabotage)
    campaign = Campaign(calls, promises_of(state_dir, calls), subsets=1, since=since)
    assert any(lost in words for words in campaign.broken())
