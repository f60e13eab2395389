"""A sync process that floods and hangs: each trick plays it on an agent's sync socket. That the device is unharmed
afterwards is the tests' to see; lies are in `evil`.
"""

from __future__ import annotations

import contextlib
import struct

from edge_agent.contract import limits
from edge_agent.contract.evidence import Evidence, encode_evidence
from edge_agent.worker import wire
from tests.sync.evil_stage import Stage, Trick, admin_answers, offer, resident_bytes

OFFERS = 60  # of one flood
# All that every connection may hold, with what has come of a frame.
MEMORY_HELD_BYTES_MAX = limits.SYNC_CONNECTIONS_MAX * (
    2 * limits.SYNC_METADATA_BYTES_MAX + limits.MANIFEST_BYTES_MAX + wire.HEADER_BYTES_MAX + 2 * wire.PAYLOAD_BYTES_MAX
)


def requests_whose_answers_nobody_reads(stage: Stage) -> None:
    questions = b"".join(
        wire.encode_frame({"op": op, "id": 1, "connection_id": "c", "at": 0})
        for op in ("outbox", "state", "hello", "wants", "kept_metadata", "nonsense")
    )
    with stage.socket() as sync:
        sync.sock.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(1_000):  # a time-out means that the runtime has stopped reading
                sync.sock.sendall(questions * 20)
        admin_answers(stage)


def more_connections_than_there_are(stage: Stage) -> None:
    with contextlib.ExitStack() as open_ones:
        peers = [open_ones.enter_context(stage.socket()) for _ in range(limits.SYNC_CONNECTIONS_MAX)]
        for peer in peers:
            assert peer.ask("hello")[0]["device_id"] == "d"
        for _ in range(30):
            with stage.socket() as one_more:
                answer, _ = one_more.receive()
                assert (answer["ok"], answer["reason"]) == (False, "unavailable")
        admin_answers(stage)


def long_polls_on_all_but_one(stage: Stage) -> None:
    """They keep their places after hanging up, until the poll ends: the last of the tricks, then."""
    with contextlib.ExitStack() as open_ones:
        for _ in range(limits.SYNC_CONNECTIONS_MAX - 1):
            peer = open_ones.enter_context(stage.socket())
            peer.sock.sendall(wire.encode_frame({"op": "changes", "id": 1, "seen": 1 << 60}))
        with stage.socket() as sync:
            assert sync.ask("hello")[0]["ok"]
        admin_answers(stage)


def connections_that_are_dropped_at_once(stage: Stage) -> None:
    whole = wire.encode_frame({"op": "outbox", "id": 1})
    for number in range(150):
        with contextlib.suppress(ConnectionError, BlockingIOError), stage.socket() as sync:  # its backlog may be full
            sync.sock.sendall(whole[: number % (len(whole) + 1)])


def half_a_frame_and_then_silence(stage: Stage) -> None:
    """Idle ones keep their places for a while; whoever else asks is answered."""
    with contextlib.ExitStack() as open_ones:
        for _ in range(limits.SYNC_CONNECTIONS_MAX - 1):
            peer = open_ones.enter_context(stage.socket())
            peer.sock.sendall(struct.pack("!II", 1_000_000, 2_000_000) + b'{"op":' + b" " * 900_000)
        with stage.socket() as sync:
            assert sync.ask("hello")[0]["ok"]
        admin_answers(stage)


def documents_that_fill_the_memory(stage: Stage) -> None:
    """Every connection holds as much as it may."""
    pid = stage.agent.status()["processes"]["runtime"]
    before, piece = resident_bytes(pid), bytes(limits.MIB)
    with contextlib.ExitStack() as open_ones:
        for _ in range(limits.SYNC_CONNECTIONS_MAX):
            peer = open_ones.enter_context(stage.socket())
            for document in ("metadata", "evidence", "manifest"):
                while peer.try_ask("piece", piece, document=document)[0]["ok"]:  # ends at the document's bound
                    pass
        admin_answers(stage)
        assert resident_bytes(pid) - before < MEMORY_HELD_BYTES_MAX


def the_same_lie_again_and_again(stage: Stage) -> None:
    """Refused offers of what is wanted are told, but they push no older fact out of the outbox."""
    with stage.socket() as sync:
        for number in range(OFFERS):
            assert offer(sync, stage.wanted, bytes(number + 1)) == "malformed"
            assert offer(sync, stage.wanted, encode_evidence(Evidence((), b"", b"", b"%d" % number))) != ""
        logged_bytes = stage.agent.log_file.stat().st_size
        for _ in range(OFFERS):
            sync.ask("assignment", stage.taken)
        assert stage.agent.log_file.stat().st_size == logged_bytes, "what is known already is no news"
        admin_answers(stage)


FLOODS: tuple[Trick, ...] = (
    requests_whose_answers_nobody_reads, more_connections_than_there_are, connections_that_are_dropped_at_once,
    half_a_frame_and_then_silence, documents_that_fill_the_memory, the_same_lie_again_and_again,
    long_polls_on_all_but_one,
)  # fmt: skip
