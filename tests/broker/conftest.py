"""A broker with two devices and the coordinator as its users."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.broker import Broker


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Of one module; its tests leave nothing behind that another would see."""
    with tempfile.TemporaryDirectory(prefix="hf-broker-") as folder, Broker(Path(folder)) as running:
        for name in ("d1", "d2", "coordinator"):
            running.add_user(name)
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """Of one test, which may kill it and change its users."""
    with Broker(tmp_path / "broker") as running:
        for name in ("d1", "d2", "coordinator"):
            running.add_user(name)
        yield running
