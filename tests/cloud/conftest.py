"""A broker, a publisher, and coordinators with scripted devices; each test has its own coordinator and broker."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cloud.coordinator import Coordinator
from tests.cloud.device import Device
from tests.harness.broker import Broker
from tests.harness.releases import Releases


@pytest.fixture(scope="session")
def published() -> Iterator[Releases]:
    """tiny 1.0.0, 1.1.0 and 1.2.0, signed without a proof: devices are scripted, and each test names a coordinator."""
    with tempfile.TemporaryDirectory(prefix="hf-cloud-rel-") as folder:
        made = Releases(Path(folder))
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            made.publish(version, proven=False)
        yield made


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """Of this test."""
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def idle(tmp_path: Path, published: Releases, broker: Broker) -> Iterator[Coordinator]:
    """A coordinator that was made, and not started."""
    with Coordinator(tmp_path / "data", published.publisher, broker) as made:
        yield made


@pytest.fixture
def coordinator(idle: Coordinator) -> Coordinator:
    """One that runs, with the publisher's repository uploaded and its key named there."""
    idle.start_and_connect()
    idle.publish()
    return idle


NewDevice = Callable[[str], Device]


@pytest.fixture
def new_device(coordinator: Coordinator) -> Iterator[NewDevice]:
    """Makes scripted devices that are connected and have said hello; all are disconnected at the end."""
    with ExitStack() as stack:

        def make(device_id: str) -> Device:
            device = stack.enter_context(Device(coordinator.broker, device_id, coordinator.public_key))
            device.hello()
            device.online()
            device.next_ack()
            return device

        yield make
