"""Publishers, coordinators and brokers for the commands; a broker only where a test needs devices."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.stand import CoordinatorProcess
from tests.harness.broker import Broker
from tests.publishing import Publisher
from tests.samples import a_manifest
from tests.tiny_model import write_tiny_model

FILES = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}


@pytest.fixture(scope="module")
def published() -> Iterator[CoordinatorProcess]:
    """Without a broker, with tiny 1.0.0 and 1.1.0; its tests change nothing there."""
    with tempfile.TemporaryDirectory(prefix="hf-fleet-") as folder:
        publisher = Publisher(Path(folder) / "publisher")
        for number, version in enumerate(("1.0.0", "1.1.0"), start=1):
            publisher.pack(write_tiny_model(Path(folder) / version, version=version, release=number, seed=number))
        with CoordinatorProcess(Path(folder) / "coordinator", publisher) as running:
            running.publish()
            yield running


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """With the user `coordinator`; devices add themselves."""
    with Broker(tmp_path / "broker") as running:
        running.add_user("coordinator")
        yield running


@pytest.fixture
def fleet_of(tmp_path: Path, broker: Broker) -> Iterator[CoordinatorProcess]:
    """A coordinator with a broker, tiny 1.0.0 and 1.1.0 published there, and no devices yet."""
    publisher = Publisher(tmp_path / "publisher")
    for release, version in enumerate(("1.0.0", "1.1.0"), start=10):
        publisher.publish_manifest(a_manifest(version=version, release=release), FILES)
    with CoordinatorProcess(tmp_path / "coordinator", publisher, broker) as running:
        running.publish()
        yield running
