"""One whole fleet for each file (a broker, a coordinator, two devices): each test leaves it as it found it, at work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.agent import ShortFolder
from tests.harness.fleet import Fleet
from tests.harness.releases import Releases

SOON_S = 1.0  # the longest pause between two tries to connect


@pytest.fixture(scope="module")
def published() -> Iterator[Releases]:
    """tiny 0.9.0 (the factory's), 1.0.0 and 1.1.0, from a publisher of this file's own: it names the coordinator."""
    with tempfile.TemporaryDirectory(prefix="hf-line-") as folder:
        made = Releases(Path(folder))
        for version in ("0.9.0", "1.0.0", "1.1.0"):
            made.publish(version)
        yield made


@pytest.fixture(scope="module")
def fleet(published: Releases) -> Iterator[Fleet]:
    """At work: both devices serve 0.9.0 and have said hello."""
    with (
        ShortFolder() as folder,
        Fleet(folder, published, devices=2, model={"probation_s": 0.0}, sync={"reconnect_max_s": SOON_S}) as running,
    ):
        yield running
