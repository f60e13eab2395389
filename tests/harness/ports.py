"""Free ports that stay free: for servers whose address is written down before they start. Binding is the servers'."""

from __future__ import annotations

import contextlib
import random
import socket

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)  # below what the kernel gives to outgoing connections: still free at a second start
TRIES_MAX = 100


def free_port() -> int:
    """A port on loopback on which nothing listens now, and hardly ever will."""
    for port in random.sample(PORTS, TRIES_MAX):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise AssertionError(f"no free port on {HOST}")
