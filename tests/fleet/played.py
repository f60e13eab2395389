"""Devices that are played: scripted ones (tests/cloud/device.py) which do with each wish what their play says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

from edge_agent.contract import topics
from edge_agent.contract.assignment import ModelAssignment
from edge_agent.contract.device_state import AssignedState, SlotState, SnapshotRef, TurnedAway
from tests.cloud.device import Device, slot
from tests.cloud.town import Town

FACTORY = ("0.9.0", "0" * 64)
LOOK_S = 0.02

Play = Callable[[SlotState, ModelAssignment], SlotState]


def waits(now: SlotState, wish: ModelAssignment) -> SlotState:
    """Takes the wish and does nothing about it yet."""
    return msgspec.structs.replace(now, assigned=AssignedState(wish.digest, wish.generation, held=False))


def serves(now: SlotState, wish: ModelAssignment) -> SlotState:
    """Does at once what is wished."""
    return msgspec.structs.replace(waits(now, wish), candidate=None, active=SnapshotRef(wish.version, wish.digest))


def refuses(reason: str, detail: str = "") -> Play:
    """Finds fault with whatever is wished, and goes on serving what it served."""

    def play(now: SlotState, wish: ModelAssignment) -> SlotState:
        away = TurnedAway(wish.version, wish.digest, reason, blocked=True, detail=detail)
        return msgspec.structs.replace(waits(now, wish), turned_away=(away,))

    return play


class Player:
    """One device with one model, connected while in its `with` block. play: what it does with each wish."""

    def __init__(self, town: Town, device_id: str, model: str, play: Play = serves) -> None:
        self.device = Device(town.broker, device_id, town.public_key)
        self.device.models = (model,)
        self.wishes: list[ModelAssignment] = []
        self._model, self._play = model, play
        self._now = slot(FACTORY)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Player:
        self.device.connect()
        self.device.hello()
        self.device.online()
        self.device.next_ack()  # the coordinator knows it now
        self.tell()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        self.device.disconnect()

    def vanish(self) -> None:
        """The connection breaks; it listens no more."""
        self._over.set()
        self._thread.join(10)
        self.device.vanish()

    def tell(self, **changes: Any) -> None:
        """Another state, said to the coordinator."""
        with self._lock:
            self._say(msgspec.structs.replace(self._now, **changes))

    def serve(self) -> None:
        """Do now what was wished last."""
        with self._lock:
            self._say(serves(self._now, self.wishes[-1]))

    def _say(self, now: SlotState) -> None:
        self._now = now
        self.device.state(**{self._model: now})

    def _listen(self) -> None:
        while not self._over.wait(LOOK_S):
            if self.device.quiet(topics.ASSIGNMENT):
                continue
            wish = self.device.next_assignment().models.get(self._model)
            if wish is not None and wish not in self.wishes:  # the same one may be said again
                with self._lock:
                    self.wishes.append(wish)
                    self._say(self._play(self._now, wish))
