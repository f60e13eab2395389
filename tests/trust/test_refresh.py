"""A refresh that came only so far: the part that verifies is kept, nothing older gets in, and why it ends is told."""

from __future__ import annotations

import re
from datetime import timedelta

import msgspec
import pytest

from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import Evidence, MetadataFiles
from edge_agent.contract.reasons import Reason
from edge_agent.trust.refresh import Refreshed, verify_refresh
from edge_agent.trust.verified import TufVersions
from tests.samples import manifest_raw
from tests.trust.authority import NOW, Authority

RAW = manifest_raw()
PARTS = ("timestamp", "tuf_snapshot", "targets")
NONE = TufVersions()


def files_of(evidence: Evidence, parts: int = 3) -> MetadataFiles:
    """The roots and the first so many of the other files."""
    return MetadataFiles(evidence.root_chain, **{name: getattr(evidence, name) for name in PARTS[:parts]})


def refresh(files: MetadataFiles, authority: Authority, seen: TufVersions = NONE) -> Refreshed:
    return verify_refresh(files, pinned_root=authority.pinned, seen=seen)


def marks(root: int, *others: int) -> TufVersions:
    return TufVersions(root, *(*others, 0, 0, 0)[:3])


@pytest.mark.parametrize("parts", range(4))
def test_what_is_there_verifies_and_what_is_missing_is_no_fault(parts: int) -> None:
    authority = Authority()
    files = files_of(authority.evidence(RAW, version=7), parts)
    assert refresh(files, authority) == Refreshed(files, marks(1, *[7] * parts), None)


@pytest.mark.parametrize("broken", range(3))
def test_it_ends_at_the_first_file_that_does_not_hold_and_keeps_those_before(broken: int) -> None:
    authority = Authority()
    good = files_of(authority.evidence(RAW, version=7))
    flipped = re.sub(
        rb'"sig":"(.)', lambda m: b'"sig":"' + (b"0" if m[1] != b"0" else b"1"), getattr(good, PARTS[broken])
    )
    refreshed = refresh(msgspec.structs.replace(good, **{PARTS[broken]: flipped}), authority)
    assert refreshed.files == msgspec.structs.replace(good, **dict.fromkeys(PARTS[broken:]))
    assert refreshed.refusal is not None and refreshed.refusal.reason is Reason.SIGNATURE
    assert refreshed.marks == marks(1, *[7] * broken)


@pytest.mark.parametrize("older", range(3))
def test_nothing_older_than_what_was_seen_is_kept(older: int) -> None:
    authority = Authority()
    seen = marks(1, *[7 if role != older else 8 for role in range(3)])
    refreshed = refresh(files_of(authority.evidence(RAW, version=7)), authority, seen)
    assert refreshed.refusal is not None and refreshed.refusal.reason is Reason.METADATA_ROLLBACK
    assert getattr(refreshed.files, PARTS[older]) is None
    assert refreshed.marks.highest(seen) == seen


def test_dates_do_not_count() -> None:
    authority = Authority(root_expires=NOW - timedelta(days=9))
    past = dict.fromkeys(("timestamp", "snapshot", "targets"), NOW - timedelta(days=999))
    assert refresh(files_of(authority.evidence(RAW, expires=past)), authority).refusal is None


def test_a_rotated_root_alone_is_taken_and_costs_no_mark_of_other_roles() -> None:
    """Else the holder of an old, unrotated timestamp could play it back after any root rotation."""
    authority = Authority()
    authority.rotate("root")
    files = files_of(authority.evidence(RAW, version=7), 0)
    refreshed = refresh(files, authority, marks(1, 9, 9, 9))
    assert refreshed == Refreshed(files, marks(2, 9, 9, 9), None)
    assert refreshed.marks.highest(marks(1, 9, 9, 9)) == marks(2, 9, 9, 9)


def test_a_rotated_timestamp_key_voids_what_it_had_signed() -> None:
    authority = Authority()
    authority.rotate("timestamp")
    refreshed = refresh(files_of(authority.evidence(RAW, version=3)), authority, marks(1, 9, 9, 3))
    assert refreshed.refusal is None and refreshed.marks == marks(2, 3, 3, 3)


def test_an_older_root_chain_gives_nothing() -> None:
    authority = Authority()
    refreshed = refresh(files_of(authority.evidence(RAW)), authority, marks(5, 1, 1, 1))
    assert refreshed.files == MetadataFiles() and refreshed.marks == marks(5, 1, 1, 1)
    assert refreshed.refusal is not None and refreshed.refusal.reason is Reason.METADATA_ROLLBACK


def test_roots_that_do_not_follow_the_pinned_one_are_refused() -> None:
    authority, stranger = Authority(), Authority()
    stranger.rotate("root")
    with pytest.raises(Rejected) as caught:
        refresh(MetadataFiles((*authority.roots, stranger.roots[1])), authority)
    assert caught.value.reason is Reason.SIGNATURE


def test_files_of_two_days_do_not_mix() -> None:
    authority = Authority()
    monday, tuesday = (files_of(authority.evidence(RAW, version=version)) for version in (1, 2))
    mixed = msgspec.structs.replace(tuesday, targets=monday.targets)
    refreshed = refresh(mixed, authority)
    assert refreshed.files.targets is None and refreshed.files.tuf_snapshot == tuesday.tuf_snapshot
    assert refreshed.refusal is not None and refreshed.refusal.reason is Reason.SIGNATURE
