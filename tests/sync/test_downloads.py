"""From a want to an offer that is complete: manifest, evidence, chunks in parts, through cuts, kills and refusals."""

from __future__ import annotations

import threading
import time

from edge_agent.contract import limits, topics
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import HoldfastError, Rejected
from edge_agent.contract.evidence import decode_evidence
from edge_agent.contract.reasons import Reason
from edge_agent.contract.transfer import Get, Kind
from tests.publishing import Publisher
from tests.samples import a_manifest, file_entry, manifest_raw
from tests.sync.stand import Stand, a_file

QUIET_S = 0.1  # many times what an answer needs on loopback
SMALL = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}


def published(
    stand: Stand, publisher: Publisher, program_bytes: int = 7, version: str = "1.0.0", release: int = 10
) -> str:
    """Publish a snapshot with a program of this size, which the coordinator then has; its digest."""
    files = {**SMALL, "model.json": a_file(program_bytes)}
    manifest = a_manifest(
        files=tuple(file_entry(path, content) for path, content in files.items()), version=version, release=release
    )
    publisher.publish_manifest(manifest, files)
    stand.coordinator.serve_repository(publisher.repository.folder)
    return sha256_hex(manifest_raw(files=manifest.files, version=version, release=release))


def test_what_is_wanted_is_fetched_and_offered_with_its_evidence(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 3 * limits.MIB + 5)
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")
    evidence = decode_evidence(stand.runtime.evidence[0])
    assert evidence.timestamp == stand.coordinator.things[Kind.METADATA, "timestamp.json"]
    assert {sha256 for kind, sha256 in stand.coordinator.things if kind is Kind.CHUNK} == set(stand.runtime.chunks)


def test_twenty_cuts_cost_only_what_was_in_flight(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 5 * limits.MIB)
    gate = Gate(stand)
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    for _ in range(20):
        gate.let_through(8)
        stand.until(gate.is_quiet, "all answers have arrived, and no more is asked for")
        stand.link.cut()
    gate.let_through(10_000)
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end", 40.0)
    sizes = [len(raw) for (kind, _), raw in stand.coordinator.things.items() if kind is Kind.CHUNK]
    assert gate.answered_bytes == sum(sizes), "each byte was answered once"


def test_a_killed_sync_fetches_only_the_chunks_that_the_runtime_has_not(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 4 * limits.MIB)
    stand.coordinator.gate = lambda get: None if get.kind is Kind.CHUNK and len(stand.runtime.chunks) > 1 else 200
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    stand.until(lambda: len(stand.runtime.chunks) > 1, "two chunks were handed over")
    stand.kill()
    before, had = len(stand.coordinator.asked), set(stand.runtime.chunks)
    stand.coordinator.gate = lambda _get: 200
    stand.start()
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")
    asked = {get.name for get in stand.coordinator.asked[before:] if get.kind is Kind.CHUNK}
    assert not asked & had


def test_a_chunk_that_is_not_what_its_name_says_is_not_offered(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 2 * limits.MIB)
    name = max(name for kind, name in stand.coordinator.things if kind is Kind.CHUNK)
    right = stand.coordinator.things[Kind.CHUNK, name]
    stand.coordinator.things[Kind.CHUNK, name] = right[:-1] + bytes([right[-1] ^ 1])
    offered: list[str] = []

    def note(op: str, header: dict[str, str], _payload: bytes) -> None:
        if op == "offer_chunk":
            offered.append(header["sha256"])

    stand.runtime.refuse = note
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    stand.until(lambda: "chunk_mismatch" in stand.log(), "it is noticed")
    assert name not in offered, "here, and not by the runtime"
    stand.coordinator.things[Kind.CHUNK, name] = right
    stand.coordinator.say(topics.ASSIGNMENT, b"try it now")
    stand.until(lambda: stand.runtime.offered == [digest], "it is tried again")


def test_what_the_coordinator_refuses_is_tried_again_later_and_at_once_after_an_assignment(
    stand: Stand, publisher: Publisher
) -> None:
    digest = published(stand, publisher)
    stand.coordinator.gate = lambda get: 403 if get.kind is Kind.MANIFEST else 200
    stand.runtime.want(digest, "1.0.0")
    stand.start().connected()
    stand.until(lambda: len(stand.coordinator.asked_for(Kind.MANIFEST)) == 2, "it is tried again")
    stand.coordinator.gate = lambda _get: 200
    stand.coordinator.say(topics.ASSIGNMENT, b"new")
    stand.until(lambda: stand.runtime.offered == [digest], "it is tried at once", 2.0)


def test_what_the_runtime_refuses_is_offered_again_later(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher)
    refused: list[str] = []

    def refuse(op: str, _header: object, _payload: bytes) -> HoldfastError | None:
        if op != "offer_begin" or refused:
            return None
        refused.append(op)
        return Rejected("too late", reason=Reason.EXPIRED)

    stand.runtime.refuse = refuse
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    stand.until(lambda: '"reason": "expired"' in stand.log(), "the reason is logged")
    assert not stand.runtime.offered
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered again")
    assert len(stand.coordinator.asked_for(Kind.MANIFEST)) == 1, "the manifest is not fetched again for that"


def test_while_a_chunk_is_being_stored_one_is_ready_and_another_comes(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 4 * limits.MIB)
    stored = threading.Event()

    def wait(op: str, _header: object, _payload: bytes) -> None:
        if op == "offer_chunk":
            stored.wait(20.0)

    stand.runtime.refuse = wait
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    try:
        asked = stand.coordinator.asked_for
        stand.until(lambda: len({get.name for get in asked(Kind.CHUNK)}) >= 3, "three are asked for")
        assert not stand.runtime.chunks
    finally:
        stored.set()
    stand.until(lambda: stand.runtime.offered == [digest], "it is offered to the end")


def test_another_wish_in_the_middle_of_a_download_replaces_it(stand: Stand, publisher: Publisher) -> None:
    first = published(stand, publisher, limits.MIB, "1.0.0", 10)
    second = published(stand, publisher, 7, "1.1.0", 11)
    chunks = {name for kind, name in stand.coordinator.things if kind is Kind.CHUNK}
    big = {name for name in chunks if len(stand.coordinator.things[Kind.CHUNK, name]) == limits.MIB}
    stand.coordinator.gate = lambda get: None if get.name in big else 200
    stand.runtime.want(first, "1.0.0")
    stand.start()
    stand.until(lambda: stand.coordinator.asked_for(Kind.CHUNK), "the first one is being fetched")
    stand.runtime.want(second, "1.1.0")
    stand.until(lambda: stand.runtime.offered == [second], "the second one is offered", 5.0)


def test_a_repair_brings_only_the_chunks_that_are_damaged(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 2 * limits.MIB)
    chunks = {name: raw for (kind, name), raw in stand.coordinator.things.items() if kind is Kind.CHUNK}
    damaged = max(chunks)
    stand.runtime.chunks = {name: raw for name, raw in chunks.items() if name != damaged}
    stand.runtime.want(digest, "1.0.0", repair=True)
    stand.start()
    stand.until(lambda: stand.runtime.offered == [digest], "it is repaired")
    assert {get.name for get in stand.coordinator.asked_for(Kind.CHUNK)} == {damaged}


def test_a_runtime_that_restarts_in_the_middle_gets_the_rest(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 4 * limits.MIB)
    stopped: list[str] = []

    def refuse(op: str, _header: object, _payload: bytes) -> HoldfastError | None:
        if op == "offer_chunk" and stand.runtime.chunks and not stopped:
            stand.runtime.stop()
            stopped.append(op)
        return None

    stand.runtime.refuse = refuse
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    stand.until(lambda: stopped, "the runtime ended after the first chunk")
    stand.runtime.start()
    stand.until(lambda: stand.runtime.offered == [digest], "the next runtime has it all")
    assert stand.runtime.begun == [digest, digest]


def test_an_assignment_does_not_wait_behind_a_download_on_a_slow_link(stand: Stand, publisher: Publisher) -> None:
    digest = published(stand, publisher, 3 * limits.MIB)
    stand.start().connected()
    stand.until(lambda: stand.runtime.taken, "the metadata is refreshed")
    stand.link.bytes_per_s = 512 * limits.KIB
    stand.runtime.want(digest, "1.0.0")
    stand.until(lambda: len(stand.coordinator.asked_for(Kind.CHUNK)) > 16, "the link is busy")
    stand.coordinator.say(topics.ASSIGNMENT, b"go back")
    stand.until(lambda: stand.runtime.assignments == [b"go back"], "it is there within what was in flight", 2.5)
    assert not stand.runtime.offered
    asked = [get.length for get in stand.coordinator.asked_for(Kind.CHUNK)]
    assert max(asked) <= 128 * limits.KIB, "parts take about a quarter of a second"


class Gate:
    """Lets a number of answers to questions for chunks through, and no more: what lies between is in flight."""

    def __init__(self, stand: Stand) -> None:
        self.answered_bytes = 0
        self._stand = stand
        self._left = 0
        self._lock = threading.Lock()
        self._looked = (0, 0.0)
        self._lengths = {n: len(raw) for (kind, n), raw in stand.coordinator.things.items() if kind is Kind.CHUNK}
        stand.coordinator.gate = self._answer

    def let_through(self, answers: int) -> None:
        """From now on so many."""
        with self._lock:
            self._left = answers

    def is_quiet(self) -> bool:
        """Whether nothing was asked for a while, with nothing let through any more: the window is full."""
        asked = len(self._stand.coordinator.asked)
        if self._left or asked != self._looked[0]:
            self._looked = asked, time.monotonic()
        return time.monotonic() - self._looked[1] > QUIET_S

    def _answer(self, get: Get) -> int | None:
        if get.kind is not Kind.CHUNK:
            return 200
        with self._lock:
            if not self._left:
                return None
            self._left -= 1
            self.answered_bytes += min(get.length, self._lengths[get.name] - get.offset)
            return 200
