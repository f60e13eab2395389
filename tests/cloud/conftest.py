"""A broker, a publisher, and coordinators with scripted devices."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cloud.device import Device
from tests.cloud.town import Town
from tests.harness.broker import Broker
from tests.harness.releases import Releases
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def published() -> Iterator[Releases]:
    """tiny 1.0.0, 1.1.0 and 1.2.0 (of some MB), and lonely 1.0.0, which no device runs.

    Signed without a proof, for devices are scripted; each coordinator is named in turn.
    """
    with tempfile.TemporaryDirectory(prefix="hf-cloud-rel-") as folder:
        made = Releases(Path(folder))
        for version in ("1.0.0", "1.1.0"):
            made.publish(version, proven=False)
        made.publish("1.2.0", proven=False, hidden=100_000)
        made.publisher.publish_unproven(write_tiny_model(Path(folder) / "lonely", name="lonely"))
        yield made


@pytest.fixture(scope="module")
def town(published: Releases) -> Iterator[Town]:
    """One that runs, with its key named and the repository uploaded; of one module, whose tests name own devices."""
    with (
        tempfile.TemporaryDirectory(prefix="hf-cloud-") as folder,
        Broker(Path(folder) / "broker") as broker,
        Town(Path(folder) / "data", published.publisher, broker) as made,
    ):
        made.restart()
        made.publish()
        yield made


@pytest.fixture
def idle(tmp_path: Path, published: Releases) -> Iterator[Town]:
    """One of this test, with a broker of its own, not started."""
    with Broker(tmp_path / "broker") as broker, Town(tmp_path / "data", published.publisher, broker) as made:
        yield made


@pytest.fixture
def own(idle: Town) -> Town:
    """One of this test, that runs, named and with everything uploaded: it may be killed."""
    idle.restart()
    idle.publish()
    return idle


NewDevice = Callable[..., Device]


@pytest.fixture
def new_device() -> Iterator[NewDevice]:
    """Makes scripted devices that are connected and have said hello; all are disconnected at the end."""
    with ExitStack() as stack:

        def make(town: Town, device_id: str, models: tuple[str, ...] = ("tiny",)) -> Device:
            device = stack.enter_context(Device(town.broker, device_id, town.public_key))
            device.models = models
            device.hello()
            device.online()
            device.next_ack()
            return device

        yield make
