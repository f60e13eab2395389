"""Evidence as it is stored: byte for byte what was signed, bounded, and never another error than Rejected."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.evidence import (
    EVIDENCE_BYTES_MAX,
    Evidence,
    MetadataFiles,
    bundle_chunk_entry,
    bundle_root_entry,
    decode_evidence,
    decode_metadata_files,
    encode_evidence,
    manifest_target_path,
)
from edge_agent.contract.reasons import Reason

files = st.binary(max_size=200)


@given(roots=st.lists(files, max_size=4), timestamp=files, tuf_snapshot=files, targets=files)
def test_signed_files_go_through_storage_byte_for_byte(
    roots: list[bytes], timestamp: bytes, tuf_snapshot: bytes, targets: bytes
) -> None:
    evidence = Evidence(tuple(roots), timestamp, tuf_snapshot, targets)
    assert decode_evidence(encode_evidence(evidence)) == evidence


@settings(max_examples=300)
@given(raw=st.binary(max_size=300))
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        decode_evidence(raw)
    assert caught.value.reason is Reason.MALFORMED


def test_too_large_a_file_or_too_long_a_chain_is_refused() -> None:
    large = Evidence((), bytes(limits.METADATA_BYTES_MAX + 1), b"", b"")
    long = Evidence((b"",) * (limits.ROOT_CHAIN_MAX + 1), b"", b"", b"")
    for evidence in (large, long):
        with pytest.raises(Rejected) as caught:
            decode_evidence(encode_evidence(evidence))
        assert caught.value.reason is Reason.MALFORMED
    with pytest.raises(Rejected) as caught:
        decode_evidence(bytes(EVIDENCE_BYTES_MAX + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_the_largest_evidence_fits_its_own_bound() -> None:
    part = bytes(limits.METADATA_BYTES_MAX)
    evidence = Evidence((part,) * limits.ROOT_CHAIN_MAX, part, part, part)
    assert len(msgspec.msgpack.encode(evidence)) <= EVIDENCE_BYTES_MAX


@given(roots=st.lists(files, max_size=4), parts=st.lists(st.none() | files, min_size=3, max_size=3))
def test_metadata_as_far_as_it_came_goes_through_byte_for_byte(roots: list[bytes], parts: list[bytes | None]) -> None:
    there = MetadataFiles(tuple(roots), *parts)
    assert decode_metadata_files(encode_evidence(there)) == there
    whole = there.evidence()
    assert (whole is None) == (None in parts)
    assert whole is None or decode_evidence(encode_evidence(whole)) == whole


@settings(max_examples=300)
@given(raw=st.binary(max_size=300))
def test_random_bytes_are_no_metadata(raw: bytes) -> None:
    try:
        there = decode_metadata_files(raw)
    except Rejected as error:
        assert error.reason is Reason.MALFORMED
    else:  # a map of MessagePack whose names are all unknown: nothing is there
        assert there == MetadataFiles()


def test_too_much_metadata_is_refused() -> None:
    too_much = (
        MetadataFiles(timestamp=bytes(limits.METADATA_BYTES_MAX + 1)),
        MetadataFiles(root_chain=(b"",) * (limits.ROOT_CHAIN_MAX + 1)),
    )
    for files_ in too_much:
        with pytest.raises(Rejected) as caught:
            decode_metadata_files(encode_evidence(files_))
        assert caught.value.reason is Reason.MALFORMED
    with pytest.raises(Rejected) as caught:
        decode_metadata_files(bytes(EVIDENCE_BYTES_MAX + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_every_value_of_another_type_is_malformed_metadata() -> None:
    plain = msgspec.to_builtins(MetadataFiles((b"root",), b"t", b"s", b"g"), builtin_types=(bytes,))
    for name in plain:
        for odd in (True, 7, 1.5, "text", {}, {"a": 1}, [[]], [None], [b"a", 7]):
            with pytest.raises(Rejected) as caught:
                decode_metadata_files(msgspec.msgpack.encode({**plain, name: odd}))
            assert caught.value.reason is Reason.MALFORMED
    for whole in (7, None, [], "text", b"bytes", [plain]):
        with pytest.raises(Rejected):
            decode_metadata_files(msgspec.msgpack.encode(whole))


def test_names_that_publisher_and_device_agree_on() -> None:
    assert bundle_root_entry(3) == "metadata/3.root.json"
    assert bundle_chunk_entry("ab") == "chunks/ab"
    assert manifest_target_path("digits", "1.0.0") == "manifests/digits/1.0.0.json"
