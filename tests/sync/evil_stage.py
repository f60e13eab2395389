"""Where an evil sync process stands: a real agent, what such a process may have stolen, and its connections. Its tricks
are in `evil` and `evil_floods`.
"""

from __future__ import annotations

import contextlib
import resource
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.client import AdminClient
from edge_agent.config import load_config
from edge_agent.contract.evidence import Evidence
from tests.harness.agent import Agent
from tests.harness.line import Signer, SyncSocket, evidence_of, manifest_raw
from tests.harness.releases import Releases
from tests.publishing import Publisher

REVISION = 6  # of the assignment that the device has taken
ADMIN_S = 2.0  # an operator's question is answered in milliseconds; two busy cores make it more


class Connection(SyncSocket):
    """A connection on which answers may come that nobody waits for."""

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next answer. Raises ConnectionError when the runtime hangs up first."""
        while not self._ready:  # ends with a frame, the end of the connection or the socket's time-out
            data = self.sock.recv(1 << 18)
            if not data:
                raise ConnectionError("the agent hung up")
            self._ready += list(self._decoder.feed(data))
        return self._ready.pop(0)


@dataclass
class Stage:
    """The device, and what an evil sync process may have seen and stolen. It has no key.

    stranger: a publisher and a coordinator that this device has no reason to believe. taken: the assignment in force.
    past: what was signed before it. old_evidence: the publisher's, of an earlier day.
    """

    agent: Agent
    releases: Releases
    signer: Signer
    stranger: Signer
    strange_publisher: Publisher
    taken: bytes
    past: tuple[bytes, ...]
    old_evidence: Evidence
    incarnation: str
    acknowledged: int

    def socket(self) -> Connection:
        """A new connection."""
        return Connection(self.agent)

    @property
    def wanted(self) -> bytes:
        """The manifest that may be offered."""
        return manifest_raw(self.releases.publisher, self.releases.all["1.1.0"])

    @property
    def evidence(self) -> Evidence:
        """The publisher's signed files as they are now."""
        return evidence_of(self.releases.publisher)


Trick = Callable[[Stage], None]


def offer(sync: SyncSocket, manifest: bytes, evidence: bytes) -> str:
    """Offer these bytes; the reason for which they are refused."""
    sync.send("evidence", evidence)
    sync.send("manifest", manifest)
    return sync.refusal("offer_begin")


def hangs_up(stage: Stage, raw: bytes) -> bool:
    """Whether the runtime ends a connection on which these bytes come."""
    with stage.socket() as sync:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sync.sock.sendall(raw)
        try:
            return sync.sock.recv(1 << 16) == b""
        except ConnectionResetError:
            return True


def frame(header: bytes, payload: bytes = b"") -> bytes:
    """A frame with a header that need not be one."""
    return struct.pack("!II", len(header), len(payload)) + header + payload


def admin_answers(stage: Stage) -> None:
    """The operator gets through, at once."""
    started = time.monotonic()
    with AdminClient(load_config(stage.agent.config_file)) as client:
        assert client.ask("status")[0]["status"]["models"]["tiny"]["serving"]
    assert time.monotonic() - started < ADMIN_S


def resident_bytes(pid: int) -> int:
    """Memory of a process, of all its kinds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
