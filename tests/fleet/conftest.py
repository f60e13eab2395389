"""One coordinator and broker for each file: every test has a model and devices of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.town import Town
from tests.fleet.played import Play, Player, serves
from tests.fleet.stand import Operator
from tests.harness.agent import wait_until
from tests.harness.broker import Broker
from tests.publishing import Publisher
from tests.samples import a_manifest

FILES = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}
_numbers = count(1)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """With the publisher's key and repository (tiny 1.0.0 and 1.1.0), connected."""
    with tempfile.TemporaryDirectory(prefix="hf-fleet-") as name, Broker(Path(name) / "broker") as broker:
        publisher = Publisher(Path(name) / "publisher")
        publish(publisher, "tiny")
        with Town(Path(name) / "town", publisher, broker) as running:
            running.restart()
            running.publish()
            yield running


@pytest.fixture
def operator(town: Town) -> Operator:
    """In front of it."""
    return Operator(town)


def publish(publisher: Publisher, model: str) -> None:
    """Versions 1.0.0 and 1.1.0 of a model of this name, signed."""
    for release, version in enumerate(("1.0.0", "1.1.0"), start=10):
        publisher.publish_manifest(a_manifest(name=model, version=version, release=release), FILES)


class Scene:
    """A model of one test, and the devices that the test lets in; all of them leave at its end."""

    def __init__(self, operator: Operator, stack: ExitStack) -> None:
        self.operator = operator
        self.model = f"model-{next(_numbers)}"
        self._stack = stack
        publish(operator.town.publisher, self.model)
        operator.town.upload()

    def name(self, device: str) -> str:
        """The id of the device that this test calls so."""
        return f"{device}-of-{self.model}"

    def enter(self, device: str, play: Play = serves) -> Player:
        """A device whose state the coordinator knows when this returns."""
        player = Player(self.operator.town, self.name(device), self.model, play)
        self._stack.enter_context(player)
        wait_until(lambda: self.slot(device)["active"], f"{device} told its state")
        return player

    def start(self, *options: object, version: str = "1.1.0", code: int = 0) -> Any:
        """`fleet rollout start` of this model: the document."""
        return self.operator.document("rollout", "start", self.model, "--to", version, *options, code=code)

    def told(self, device: str) -> Any:
        """The device as `fleet devices list` has it."""
        listed = self.operator.document("devices", "list")["devices"]
        return next(each for each in listed if each["device_id"] == self.name(device))

    def slot(self, device: str) -> Any:
        """Its slot of this model."""
        return self.told(device)["models"][self.model]

    def rows(self, text: str) -> str:
        """The lines of a table that speak of this test's model."""
        return "\n".join(line for line in text.splitlines() if self.model in line)


@pytest.fixture
def scene(operator: Operator) -> Iterator[Scene]:
    """Of one test."""
    with ExitStack() as stack:
        yield Scene(operator, stack)
