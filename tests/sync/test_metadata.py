"""Refreshing the signed metadata with python-tuf's client: what is asked for, what is handed over, also half of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import HoldfastError, Rejected
from edge_agent.contract.evidence import Evidence, MetadataFiles
from edge_agent.contract.reasons import Reason
from edge_agent.contract.transfer import Get, Kind
from tests.publishing import Publisher
from tests.samples import a_manifest, manifest_raw
from tests.sync.stand import Stand
from tests.trust.authority import LATER, Authority

SMALL = {"model.json": b"program", "golden/x.npy": b"inputs", "golden/y.npy": b"outputs"}
PAST = datetime.now(UTC) - timedelta(days=1)


def serve(stand: Stand, authority: Authority, evidence: Evidence, version: int = 1) -> None:
    """The coordinator has these files, and the manifest that they admit."""
    files = {
        "timestamp.json": evidence.timestamp,
        f"{version}.snapshot.json": evidence.tuf_snapshot,
        f"{version}.targets.json": evidence.targets,
        **{f"{number}.root.json": raw for number, raw in enumerate(authority.roots, 1)},
    }
    stand.coordinator.things = {(Kind.METADATA, name): raw for name, raw in files.items()}
    stand.coordinator.things[Kind.MANIFEST, sha256_hex(manifest_raw())] = manifest_raw()


def whole(evidence: Evidence) -> MetadataFiles:
    return MetadataFiles(evidence.root_chain, evidence.timestamp, evidence.tuf_snapshot, evidence.targets)


def names(stand: Stand) -> list[str]:
    """Metadata files that were asked for, each once, in order."""
    return list(dict.fromkeys(get.name for get in stand.coordinator.asked_for(Kind.METADATA)))


def test_the_walk_begins_at_what_the_runtime_keeps_and_ends_where_no_root_follows(stand: Stand) -> None:
    authority = Authority()
    authority.rotate("timestamp")
    authority.rotate("root")
    evidence = authority.evidence(manifest_raw())
    stand.runtime.kept = MetadataFiles((authority.roots[0],))
    serve(stand, authority, evidence)
    stand.start()
    stand.until(lambda: stand.runtime.taken == [whole(evidence)], "all of it is handed over")
    assert names(stand) == [
        "2.root.json", "3.root.json", "4.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json",
    ]  # fmt: skip
    assert (Kind.METADATA, "4.root.json") not in stand.coordinator.things, "the end was told as 404"
    assert not any("404" in line for line in stand.log().splitlines())


def test_a_device_without_metadata_takes_the_first_root_as_a_beginning(stand: Stand, publisher: Publisher) -> None:
    publisher.publish_manifest(a_manifest(), SMALL)
    stand.coordinator.serve_repository(publisher.repository.folder)
    stand.start()
    stand.until(lambda: stand.runtime.taken, "it is handed over")
    assert stand.runtime.taken[0].root_chain == (publisher.pinned,)
    assert stand.runtime.taken[0].evidence() is not None


def test_what_is_kept_already_is_not_fetched_again(stand: Stand) -> None:
    authority = Authority()
    evidence = authority.evidence(manifest_raw())
    stand.runtime.kept = whole(evidence)
    serve(stand, authority, evidence)
    stand.start()
    stand.until(lambda: stand.runtime.taken == [whole(evidence)], "the refresh is over")
    assert names(stand) == ["2.root.json", "timestamp.json"]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("1.targets.json", ("timestamp", "tuf_snapshot")),
        ("1.snapshot.json", ("timestamp",)),
        ("timestamp.json", ()),
    ],
)
def test_a_refresh_that_stops_half_way_hands_over_what_was_verified(
    stand: Stand, missing: str, expected: tuple[str, ...]
) -> None:
    authority = Authority()
    authority.rotate("root")
    evidence = authority.evidence(manifest_raw())
    stand.runtime.kept = MetadataFiles((authority.roots[0],))
    serve(stand, authority, evidence)
    stand.coordinator.gate = lambda get: 404 if get.name == missing else 200
    stand.start()
    stand.until(lambda: stand.runtime.taken, "something is handed over")
    came = {role: getattr(evidence, role) for role in expected}
    assert stand.runtime.taken[0] == MetadataFiles(tuple(authority.roots), **came)
    stand.coordinator.gate = lambda _get: 200
    stand.link.cut()
    stand.until(lambda: stand.runtime.taken[-1] == whole(evidence), "the rest follows with the next connection")


def test_a_file_that_its_newer_neighbour_does_not_name_is_left_out(stand: Stand) -> None:
    authority = Authority()
    before, after = (authority.evidence(manifest_raw(), version=version) for version in (1, 2))
    stand.runtime.kept = whole(before)
    serve(stand, authority, after, version=2)
    stand.coordinator.gate = lambda get: 404 if get.name == "2.snapshot.json" else 200
    stand.start()
    stand.until(lambda: stand.runtime.taken, "something is handed over")
    assert stand.runtime.taken[0] == MetadataFiles(after.root_chain, after.timestamp)


def test_what_a_stranger_signed_is_not_handed_over(stand: Stand) -> None:
    authority, stranger = Authority(), Authority()
    stand.runtime.kept = MetadataFiles((authority.roots[0],))
    serve(stand, authority, stranger.evidence(manifest_raw()))
    stand.start()
    stand.until(lambda: stand.runtime.taken, "something is handed over")
    assert stand.runtime.taken[0] == MetadataFiles((authority.roots[0],))
    stand.until(
        lambda: any(connected and "UnsignedMetadataError" in detail for connected, detail in stand.runtime.links),
        "`edge-agent status` shows why",
    )
    serve(stand, authority, authority.evidence(manifest_raw()))
    stand.link.cut()
    stand.until(
        lambda: stand.runtime.links[-1] == (True, "") and stand.runtime.taken[-1].targets, "and that it is over"
    )


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_metadata_that_only_the_clock_speaks_against_is_the_runtimes_to_judge(stand: Stand, role: str) -> None:
    """A device whose clock is wrong sees dates that have passed: so do these files."""
    authority = Authority(root_expires=PAST if role == "root" else LATER)
    evidence = authority.evidence(manifest_raw(), expires={role: PAST})
    digest = sha256_hex(manifest_raw())
    stand.runtime.kept = MetadataFiles((authority.roots[0],))
    serve(stand, authority, evidence)

    def refuse(op: str, _header: Mapping[str, object], _payload: bytes) -> HoldfastError | None:
        return Rejected("expired", reason=Reason.EXPIRED) if op == "offer_begin" else None

    stand.runtime.refuse = refuse
    stand.runtime.want(digest, "1.0.0")
    stand.start()
    stand.until(lambda: stand.runtime.taken and stand.runtime.taken[0] == whole(evidence), "all is handed over")
    stand.until(lambda: "offer_begin" in stand.runtime.verbs, "the snapshot is offered all the same")
    stand.until(lambda: '"reason": "expired"' in stand.log(), "the runtime's reason is told")


def test_metadata_that_is_nonsense_ends_nothing(stand: Stand) -> None:
    authority = Authority()
    evidence = authority.evidence(manifest_raw())
    stand.runtime.kept = MetadataFiles((authority.roots[0],))
    serve(stand, authority, evidence)
    stand.coordinator.things[Kind.METADATA, "timestamp.json"] = b"[" * 100_000
    stand.start()
    stand.until(lambda: stand.runtime.taken, "something is handed over")
    assert stand.runtime.taken[0] == MetadataFiles((authority.roots[0],))
    serve(stand, authority, evidence)
    stand.until(lambda: stand.runtime.taken[-1] == whole(evidence), "it goes on by itself")


def test_the_coordinators_key_comes_with_the_metadata(stand: Stand, publisher: Publisher) -> None:
    publisher.publish_manifest(a_manifest(), SMALL)
    stand.coordinator.serve_repository(publisher.repository.folder)
    stand.coordinator.things[Kind.COORDINATOR, "coordinator.json"] = b"the publisher's word"
    stand.start()
    stand.until(lambda: stand.runtime.coordinator == b"the publisher's word", "it is handed over")


def test_a_cut_in_the_middle_of_a_refresh_is_made_up_for_at_the_next_connection(stand: Stand) -> None:
    authority = Authority()
    evidence = authority.evidence(manifest_raw())
    stand.runtime.kept = MetadataFiles((authority.roots[0],))
    serve(stand, authority, evidence)
    cuts: list[Get] = []

    def gate(get: Get) -> int | None:
        if get.name != "1.targets.json" or cuts:
            return 200
        cuts.append(get)
        stand.link.cut()
        return None

    stand.coordinator.gate = gate
    stand.start()
    stand.until(lambda: stand.runtime.taken and stand.runtime.taken[-1] == whole(evidence), "all of it came", 10.0)


def test_one_connection_is_one_refresh(stand: Stand) -> None:
    authority = Authority()
    evidence = authority.evidence(manifest_raw())
    stand.runtime.kept = whole(evidence)
    serve(stand, authority, evidence)
    for connections in (1, 2):
        if connections == 1:
            stand.start()
        else:
            stand.link.cut()
        stand.until(lambda: len(stand.runtime.taken) == connections, "it is refreshed")  # noqa: B023
    stand.runtime.report()
    stand.until(lambda: stand.coordinator.heard["reports"], "something else was done meanwhile")
    assert len(stand.runtime.taken) == 2
