"""A broker that lies to the coordinator: it may keep it from its devices, and nothing more."""

from __future__ import annotations

import time

import psutil

from tests.cloud.town import Town
from tests.harness.agent import wait_until
from tests.harness.liar import DISCONNECT, NOT_AUTHORIZED, TOPIC_THAT_IS_NO_TEXT, Liar

WINDOW_S = 6.0
CONNECTIONS_MAX = 14  # in the window, with pauses of up to 1, 2, 4 … s; without growing pauses there are some 24


def at(town: Town, liar: Liar) -> None:
    """Start the coordinator with this broker."""
    town.use_broker(liar.address)
    town.start()


def test_a_broker_that_lets_nobody_hear_the_devices_is_no_connection(idle: Town) -> None:
    with Liar(granted=NOT_AUTHORIZED) as liar:
        at(idle, liar)
        wait_until(lambda: liar.connected, "it connects")
        wait_until(lambda: "does not let coordinator hear the devices" in idle.log_tail(), idle.log_tail)
        health = idle.health_or_none() or {}
        assert (health["status"], health["broker"]["connected"]) == ("degraded", False)


def test_connections_that_a_message_ended_are_hung_up(idle: Town) -> None:
    with Liar(then=TOPIC_THAT_IS_NO_TEXT) as liar:
        at(idle, liar)
        wait_until(lambda: liar.connected >= 4, "it connects again and again")
        wait_until(lambda: liar.connected - liar.ended <= 1, lambda: f"{liar.connected} and {liar.ended} ended")
        connections = psutil.Process(idle.pid).net_connections("tcp")
        open_now = [one for one in connections if one.raddr and f"{one.raddr.ip}:{one.raddr.port}" == liar.address]
        assert len(open_now) <= 1


def test_who_is_kicked_out_again_and_again_waits_longer_each_time(idle: Town) -> None:
    with Liar(then=DISCONNECT) as liar:
        at(idle, liar)
        wait_until(lambda: liar.connected, "it connects")
        time.sleep(WINDOW_S)  # what is measured is how often in this time
        assert liar.connected <= CONNECTIONS_MAX
