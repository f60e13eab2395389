"""Fixtures of this family: one broker for all tests, one stand for each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract import topics
from tests.harness.broker import Broker
from tests.publishing import Publisher
from tests.sync.runtime import DEVICE
from tests.sync.stand import Stand


@pytest.fixture(scope="session")
def sync_broker() -> Iterator[Broker]:
    """A broker that knows one device and the coordinator. A test that harms it takes one of its own."""
    with tempfile.TemporaryDirectory(prefix="hf-sync-") as folder, Broker(Path(folder)) as broker:
        for name in (DEVICE, "coordinator"):
            broker.add_user(name)
        yield broker


@pytest.fixture
def stand(short_folder: Path, sync_broker: Broker) -> Iterator[Stand]:
    """A device's line, not started; everything it started is ended, and no retained message is left."""
    stand = Stand(short_folder, sync_broker)
    try:
        yield stand
        stand.coordinator.say(topics.ASSIGNMENT, b"")
    finally:
        stand.close()


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """A publisher with keys and an empty repository."""
    return Publisher(tmp_path / "publisher")
