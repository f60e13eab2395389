"""From a want to an offer that is complete: manifest, evidence, chunks in parts, through cuts, kills and refusals."""

from __future__ import annotations

import threading
from collections import Counter

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import decode_evidence
from edge_agent.contract.reasons import Reason
from edge_agent.contract.transfer import Get, Kind
from tests.publishing import Publisher
from tests.samples import a_manifest, file_entry, manifest_raw
from tests.sync.stand import Stand, a_file

SMALL = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}


def published(stand: Stand, publisher: Publisher, program_bytes: int = 7, version: str = "1.0.0", release: int = 10) -> str:
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
