"""Talks to a running agent over its admin socket, for commands and scripts.

Blocking; nothing is decided or stored here.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_agent.config import Config
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.evidence import encode_evidence
from edge_agent.contract.reasons import Blame, reason_from_word
from edge_agent.folders import ADMIN_SOCKET, run_folders
from edge_agent.offer.bundle_reader import BundleReader
from edge_agent.worker import wire

PIECE_BYTES = 1 << 20
REQUEST_S = 90.0
RECONNECT_PAUSE_S = 0.1

Header = dict[str, Any]
Progress = Callable[[int, int], None]


def admin_sockets(config: Config) -> tuple[Path, ...]:
    """Where an agent with this configuration may listen."""
    return tuple(folder / ADMIN_SOCKET for folder in run_folders(Path(config.state_dir)))


class AdminClient:
    """One connection to the agent's admin socket; use with `with`."""

    def __init__(self, config: Config) -> None:
        """Raises Unavailable when no agent runs with this configuration."""
        self._sock = _connect(config)
        self._decoder = wire.FrameDecoder()
        self._number = 0

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def ask(self, op: str, payload: bytes = b"", **fields: Any) -> tuple[Header, bytes]:
        """One request. Raises Rejected or Unavailable as the agent says, Unavailable when it is gone."""
        self._number += 1
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it said before it hung up is read
                self._sock.sendall(wire.encode_frame({"op": op, "id": self._number, **fields}, payload))
            header, answer = self._receive()
        except (OSError, wire.WireError) as error:
            raise Unavailable(f"the agent went away: {error or 'connection closed'}", next_step="Try again") from error
        if header.get("ok"):
            return header, answer
        raise _refusal(header)

    def _receive(self) -> tuple[Header, bytes]:
        while True:  # bounded by the socket's time-out
            data = self._sock.recv(1 << 18)
            if not data:
                raise OSError("connection closed")
            for header, payload in self._decoder.feed(data):
                return header, payload


def connect_within(config: Config, wait_s: float) -> AdminClient:
    """A connection, to an agent that may be starting. Raises Rejected, or Unavailable after wait_s."""
    deadline = time.monotonic() + wait_s
    while True:  # bounded by wait_s
        try:
            return AdminClient(config)
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RECONNECT_PAUSE_S)


def _connect(config: Config) -> socket.socket:
    for path in admin_sockets(config):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(REQUEST_S)
        try:
            sock.connect(str(path))
            return sock
        except PermissionError as error:
            sock.close()
            raise Rejected(
                f"the agent on {config.state_dir} belongs to another user",
                next_step="Run this command as root or as that user",
            ) from error
        except OSError:
            sock.close()
    raise Unavailable(f"no agent runs on {config.state_dir}", next_step="Start it: edge-agent run --config agent.toml")


def _refusal(header: Header) -> Exception:
    message, next_step = str(header.get("message", "refused")), str(header.get("next_step", ""))
    try:
        reason = reason_from_word(str(header.get("reason")))
    except KeyError:
        return Unavailable(message, next_step=next_step)
    kind = Unavailable if reason.blame is Blame.DECLINED else Rejected
    return kind(message, reason=reason, next_step=next_step)


def import_bundle(
    config: Config, bundle: BundleReader, *, model: str, version: str, retry: bool, wait_s: float, progress: Progress
) -> Header:
    """Offer a bundle; goes on after a restart of the agent, for at most wait_s. The answer of the last step.

    model, version: the bundle's own words, for the agent's refusal list only. Raises Rejected, Unavailable.
    """
    AdminClient(config).close()  # nobody there at all is told at once; only a restart on the way is waited for
    deadline = time.monotonic() + wait_s
    while True:  # bounded by wait_s
        try:
            return _offer_once(config, bundle, model, version, retry, progress)
        except Unavailable as error:
            if error.reason is not None or time.monotonic() > deadline:
                raise
        time.sleep(RECONNECT_PAUSE_S)


def _offer_once(
    config: Config, bundle: BundleReader, model: str, version: str, retry: bool, progress: Progress
) -> Header:
    with AdminClient(config) as client:
        for document, raw in (("evidence", encode_evidence(bundle.evidence)), ("manifest", bundle.manifest_raw)):
            for at in range(0, len(raw), PIECE_BYTES):
                client.ask("offer_piece", raw[at : at + PIECE_BYTES], document=document)
        begun, hashes = client.ask("offer_begin", retry=retry, model=model, version=version)
        wanted = [hashes[at : at + 32].hex() for at in range(0, len(hashes), 32)]
        for done, sha256 in enumerate(wanted):
            progress(done, len(wanted))
            client.ask("offer_chunk", bundle.chunk(sha256), sha256=sha256)
        progress(len(wanted), len(wanted))
        ended, _ = client.ask("offer_end")
        return {**begun, **ended}


def wait_until_settled(config: Config, model: str, digest: str, wait_s: float, until: str = "trial") -> Header:
    """Follow an offered snapshot until it came so far, is quarantined or is given up; the slot's document then.

    until: "trial" (it answers beside what serves, or alone where no trial is due), "serving" (all requests) or
    "confirmed". Raises Unavailable after wait_s.
    """
    deadline = time.monotonic() + wait_s
    seen = -1
    while time.monotonic() < deadline:
        try:
            with AdminClient(config) as client:
                while time.monotonic() < deadline:
                    answer, _ = client.ask("wait", model=model, seen=seen)
                    seen, document = answer["seen"], answer["model"]
                    if is_settled(document, digest, until):
                        return dict(document)
        except Unavailable:
            seen = -1
        time.sleep(RECONNECT_PAUSE_S)
    raise Unavailable(f"{model}: not settled within {wait_s:g} s", next_step="See `edge-agent status`")


ENOUGH = {"trial": ("trial", "probation"), "serving": ("probation",), "confirmed": ()}


def is_settled(document: Header, digest: str, until: str) -> bool:
    """Whether this snapshot came so far, or nothing more happens to it by itself: it failed, or is no candidate now."""
    candidate = document["candidate"]
    if candidate and candidate["digest"] == digest:
        return candidate["phase"] in ENOUGH[until]
    active = document["active"]
    wanted = document["wanted"]
    if wanted and wanted["digest"] == digest and not (active and active["digest"] == digest):
        return document["status"] not in ("changing", "raising")
    return True
