"""Bundles from good to hostile: what is read is exact, what is wrong is named, all within bounds."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from edge_agent.contract import evidence as names
from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import Evidence
from edge_agent.contract.reasons import Reason
from edge_agent.offer.bundle_reader import BundleReader
from tests.samples import manifest_raw

CHUNK = b"chunk of a file"
ENTRIES = {
    names.BUNDLE_FORMAT_ENTRY: names.BUNDLE_FORMAT.encode(),
    names.bundle_root_entry(1): b"root 1",
    names.bundle_root_entry(2): b"root 2",
    names.BUNDLE_TIMESTAMP_ENTRY: b"timestamp",
    names.BUNDLE_TUF_SNAPSHOT_ENTRY: b"snapshot",
    names.BUNDLE_TARGETS_ENTRY: b"targets",
    names.BUNDLE_MANIFEST_ENTRY: manifest_raw(),
    names.bundle_chunk_entry(sha256_hex(CHUNK)): CHUNK,
}


def write(path: Path, changes: dict[str, bytes | None] | None = None, *, method: int = zipfile.ZIP_STORED) -> Path:
    content = {name: data for name, data in {**ENTRIES, **(changes or {})}.items() if data is not None}
    with zipfile.ZipFile(path, "w", method) as bundle:
        for name, data in content.items():
            bundle.writestr(name, data)
    return path


def refused(path: Path, reason: Reason | None) -> str:
    """The message; whatever is wrong with a bundle, opening it or reading its chunk must be Rejected."""
    with pytest.raises(Rejected) as caught, BundleReader(path) as bundle:
        bundle.chunk(sha256_hex(CHUNK))
    assert caught.value.reason is reason, caught.value
    assert caught.value.next_step
    return caught.value.message


def test_a_bundle_gives_exactly_what_was_put_in(tmp_path: Path) -> None:
    with BundleReader(write(tmp_path / "b")) as bundle:
        assert bundle.manifest_raw == manifest_raw()
        assert bundle.evidence == Evidence((b"root 1", b"root 2"), b"timestamp", b"snapshot", b"targets")
        assert bundle.chunk(sha256_hex(CHUNK)) == CHUNK
        assert bundle.has_chunk(sha256_hex(CHUNK)) and not bundle.has_chunk("0" * 64)
        with pytest.raises(Rejected) as caught:
            bundle.chunk("0" * 64)
        assert caught.value.reason is Reason.CHUNK_MISMATCH


def test_the_roots_are_in_order_of_their_versions_not_of_their_names(tmp_path: Path) -> None:
    more: dict[str, bytes | None] = {names.bundle_root_entry(v): f"root {v}".encode() for v in range(1, 13)}
    with BundleReader(write(tmp_path / "b", more)) as bundle:
        assert bundle.evidence.root_chain[9:] == (b"root 10", b"root 11", b"root 12")


def test_an_empty_file_and_five_gigabytes_of_zeros_are_named_at_once(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert "empty (0 bytes)" in refused(empty, Reason.TRUNCATED)
    zeros = tmp_path / "zeros"
    with zeros.open("wb") as stream:
        stream.truncate(5_000_000_000)
    tracemalloc.start()
    assert "not a Holdfast bundle" in refused(zeros, Reason.MALFORMED)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < limits.MIB


def test_a_bundle_that_ends_early_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole").read_bytes()
    short = tmp_path / "short"
    for length in range(1, len(whole)):
        short.write_bytes(whole[:length])
        assert "ends before" in refused(short, Reason.TRUNCATED)


def test_a_bundle_cut_before_its_directory_and_mended_with_zeros_is_truncated(tmp_path: Path) -> None:
    """What an interrupted copy leaves on some file systems: the right length, zeros at the end."""
    whole = write(tmp_path / "whole").read_bytes()
    mended = tmp_path / "mended"
    mended.write_bytes(whole[:400] + bytes(len(whole) - 400))
    refused(mended, Reason.TRUNCATED)


@pytest.mark.parametrize(
    "name", [name for name in ENTRIES if not name.startswith(("chunks/", "metadata/1", "metadata/2"))]
)
def test_a_bundle_without_a_part_names_the_part(tmp_path: Path, name: str) -> None:
    assert name in refused(write(tmp_path / "b", {name: None}), Reason.MALFORMED)


@pytest.mark.parametrize(
    ("name", "bytes_max"),
    [
        (names.BUNDLE_FORMAT_ENTRY, limits.BUNDLE_FORMAT_BYTES_MAX),
        (names.BUNDLE_MANIFEST_ENTRY, limits.MANIFEST_BYTES_MAX),
        (names.BUNDLE_TARGETS_ENTRY, limits.METADATA_BYTES_MAX),
        (names.bundle_root_entry(1), limits.METADATA_BYTES_MAX),
        (names.bundle_chunk_entry(sha256_hex(CHUNK)), limits.CHUNK_BYTES),
    ],
)
def test_a_part_larger_than_its_bound_is_refused(tmp_path: Path, name: str, bytes_max: int) -> None:
    assert name in refused(write(tmp_path / "b", {name: bytes(bytes_max + 1)}), Reason.TOO_LARGE)


def test_too_many_entries_or_roots_are_refused(tmp_path: Path) -> None:
    roots: dict[str, bytes | None] = {names.bundle_root_entry(v): b"" for v in range(1, limits.ROOT_CHAIN_MAX + 2)}
    refused(write(tmp_path / "roots", roots), Reason.TOO_LARGE)
    many: dict[str, bytes | None] = {f"x{i}": b"" for i in range(limits.BUNDLE_ENTRIES_MAX)}
    refused(write(tmp_path / "many", many), Reason.TOO_LARGE)


def test_compressed_entries_are_refused_so_that_none_can_be_a_bomb(tmp_path: Path) -> None:
    packed = write(
        tmp_path / "b",
        {names.bundle_chunk_entry(sha256_hex(CHUNK)): bytes(10**6)},
        method=zipfile.ZIP_DEFLATED,
    )
    assert "compressed" in refused(packed, Reason.MALFORMED)


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    newer = write(tmp_path / "b", {names.BUNDLE_FORMAT_ENTRY: b"holdfast-bundle-9"})
    assert "holdfast-bundle-9" in refused(newer, Reason.MALFORMED)


def test_an_ordinary_zip_a_comment_and_a_doubled_entry_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    with zipfile.ZipFile(plain, "w") as other:
        other.writestr("letter.txt", b"hello")
    refused(plain, Reason.MALFORMED)
    commented = write(tmp_path / "commented")
    with zipfile.ZipFile(commented, "a") as bundle:
        bundle.comment = b"x"
    refused(commented, Reason.TRUNCATED)
    doubled = write(tmp_path / "doubled")
    with zipfile.ZipFile(doubled, "a") as bundle, pytest.warns(UserWarning):
        bundle.writestr(names.BUNDLE_MANIFEST_ENTRY, b"another")
    assert "twice" in refused(doubled, Reason.MALFORMED)


def test_entries_of_a_later_format_revision_are_passed_over(tmp_path: Path) -> None:
    with BundleReader(write(tmp_path / "b", {"delta/1": b"new"})) as bundle:
        assert bundle.manifest_raw == manifest_raw()


@pytest.mark.parametrize("name", ["é", "x" * 200])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    assert "name" in refused(write(tmp_path / "b", {name: b""}), Reason.MALFORMED)


def test_a_directory_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "b").read_bytes()
    claimed = tmp_path / "claimed"
    end = bytearray(whole[-22:])
    struct.pack_into("<I", end, 12, 3_000_000_000)
    claimed.write_bytes(whole[:-22] + end)
    refused(claimed, Reason.TOO_LARGE)


def test_an_entry_that_reaches_into_the_directory_is_refused(tmp_path: Path) -> None:
    whole = bytearray(write(tmp_path / "b").read_bytes())
    last_entry = whole.rindex(b"PK\x01\x02")
    for length_at in (20, 24):  # stored and real size
        struct.pack_into("<I", whole, last_entry + length_at, len(CHUNK) + 1)
    reaching = tmp_path / "reaching"
    reaching.write_bytes(whole)
    assert "outside of its place" in refused(reaching, Reason.MALFORMED)


def test_random_damage_never_raises_another_error(tmp_path: Path) -> None:
    chance = random.Random(20300601)
    whole = write(tmp_path / "b").read_bytes()
    directory_at = whole.index(b"PK\x01\x02")
    damaged = tmp_path / "damaged"
    survived = 0
    for _ in range(1500):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 1, 4))):
            # Half of the damage goes where the structure is.
            start = directory_at if chance.random() < 0.5 else 0
            content[chance.randrange(start, len(content))] = chance.randrange(256)
        damaged.write_bytes(content)
        try:
            with BundleReader(damaged) as bundle:
                assert len(bundle.chunk(sha256_hex(CHUNK))) == len(CHUNK)
            survived += 1  # the damage is in a content, a date or a checksum: the runtime's hashes find the former
        except Rejected as error:
            assert error.reason in (
                Reason.MALFORMED,
                Reason.TRUNCATED,
                Reason.TOO_LARGE,
                Reason.CHUNK_MISMATCH,
            )
    assert 0 < survived < 1500


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    assert "there is no bundle" in refused(tmp_path / "missing", None)
    assert "not a file" in refused(tmp_path, None)
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refused(tmp_path / "pipe", None)


def test_a_bundle_beyond_four_gigabytes_is_read(tmp_path: Path) -> None:
    """A sparse file with the directory behind 4 GiB: offsets and the end record are ZIP64's."""
    path = tmp_path / "large"
    late = b"beyond four gigabytes"
    with path.open("wb") as stream, zipfile.ZipFile(stream, "w") as bundle:
        for name, data in ENTRIES.items():
            bundle.writestr(name, data)
        stream.seek(5 * limits.GIB)
        bundle.start_dir = stream.tell()  # where the next entry begins
        bundle.writestr(names.bundle_chunk_entry(sha256_hex(late)), late)
    assert path.stat().st_blocks * 512 < limits.MIB
    with BundleReader(path) as bundle:
        assert bundle.chunk(sha256_hex(late)) == late
        assert bundle.chunk(sha256_hex(CHUNK)) == CHUNK


def test_a_bundle_larger_than_any_snapshot_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "huge")
    os.truncate(path, limits.BUNDLE_BYTES_MAX + 1)
    refused(path, Reason.TOO_LARGE)


def test_a_closed_bundle_can_be_closed_again(tmp_path: Path) -> None:
    bundle = BundleReader(write(tmp_path / "b"))
    bundle.close()
    bundle.close()
