"""The manifest: what field types alone cannot say, and the small questions that others ask of it."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract import limits
from edge_agent.contract.canonical import encode, sha256_hex
from edge_agent.contract.errors import Rejected
from edge_agent.contract.manifest import (
    EngineProfile,
    FileEntry,
    GoldenVectors,
    TensorSpec,
    Tolerance,
    chunk_lengths,
    encode_manifest,
    is_plain_path,
    parse_manifest,
)
from edge_agent.contract.reasons import Reason
from tests.samples import a_manifest, file_entry

FILES = a_manifest().files
HASH = "c" * 64
NUMPY = EngineProfile(engine="numpy", format="numpy-1", program="model.json")
X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 2))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"files": (*FILES, FILES[0])}, "a file path occurs twice"),
        ({"files": (*FILES, FileEntry("../out", 0, HASH, ()))}, "not a plain relative path"),
        ({"files": (*FILES, FileEntry("a//b", 0, HASH, ()))}, "not a plain relative path"),
        ({"files": (*FILES, FileEntry("/abs", 0, HASH, ()))}, "not a plain relative path"),
        ({"files": (*FILES, FileEntry("a\n", 0, HASH, ()))}, "not a plain relative path"),
        ({"files": (*FILES, FileEntry("more", 1, HASH, ()))}, "states 0 chunks for 1 bytes"),
        ({"files": (*FILES, FileEntry("none", 0, HASH, (HASH,)))}, "states 1 chunks for 0 bytes"),
        ({"files": FILES[:2]}, "'golden/y.npy' is used but not among the files"),
        ({"files": FILES[1:]}, "'model.json' is used but not among the files"),
        ({"inputs": (X, X)}, "an input name occurs twice"),
        ({"outputs": (Y, Y)}, "an output name occurs twice"),
        ({"inputs": (X, TensorSpec("z", "FP32", ()))}, "golden inputs are not exactly"),
        ({"outputs": (TensorSpec("z", "FP32", ()),)}, "golden outputs are not exactly"),
        ({"golden": GoldenVectors(2, {"x": "golden/x.npy"}, {})}, "golden outputs are not exactly"),
        ({"golden": GoldenVectors(2, {"x": "missing"}, {"y": "golden/y.npy"})}, "'missing' is used"),
        ({"engines": (NUMPY, NUMPY)}, "an engine occurs twice"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_with_the_place(changes: dict[str, Any], fault: str) -> None:
    raw = encode(a_manifest(**changes))
    with pytest.raises(Rejected, match=fault) as caught:
        parse_manifest(raw)
    assert caught.value.reason is Reason.MALFORMED
    with pytest.raises(Rejected):
        encode_manifest(a_manifest(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Digits"}, {"name": ""}, {"name": "a/b"}, {"name": ".."}, {"name": "-a"}, {"name": "tiny\n"},
        {"version": "1.0/2"}, {"version": ""}, {"version": "."}, {"version": "1.0\n"}, {"version": "v" * 65},
        {"release": 0}, {"release": 2**53}, {"compatible": ()}, {"files": ()}, {"engines": ()},
        {"inputs": ()},
        {"golden": GoldenVectors(0, {"x": "golden/x.npy"}, {"y": "golden/y.npy"})},
        {"golden": GoldenVectors(257, {"x": "golden/x.npy"}, {"y": "golden/y.npy"})},
        {"inputs": (TensorSpec("x", cast(Any, "FLOAT"), (1,)),)}, {"inputs": (TensorSpec("x", "FP32", (-2,)),)},
        {"inputs": (TensorSpec("x", "FP32", (1,) * 9),)}, {"schema": 2},
        {"engines": (msgspec.structs.replace(NUMPY, tolerance=Tolerance(rtol=2.0)),)},
        {"engines": (msgspec.structs.replace(NUMPY, threads=0),)},
    ],
)  # fmt: skip
def test_fields_outside_of_their_bounds_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as caught:
        encode_manifest(a_manifest(**changes))
    assert caught.value.reason is Reason.MALFORMED


def test_a_snapshot_may_be_sixteen_gibibytes_and_no_more() -> None:
    chunks = (HASH,) * (limits.SNAPSHOT_BYTES_MAX // limits.CHUNK_BYTES)
    rest = a_manifest().total_bytes()
    whole = FileEntry("w", limits.SNAPSHOT_BYTES_MAX - rest, HASH, chunks)
    raw, digest = encode_manifest(a_manifest(files=(*FILES, whole)))
    assert parse_manifest(raw).total_bytes() == limits.SNAPSHOT_BYTES_MAX
    assert digest == sha256_hex(raw) and len(raw) < limits.MANIFEST_BYTES_MAX
    with pytest.raises(Rejected, match="at most"):
        encode_manifest(a_manifest(files=(*FILES, msgspec.structs.replace(whole, length=whole.length + 1))))


@given(length=st.integers(0, 2**40))
def test_chunks_are_full_but_for_the_last(length: int) -> None:
    full, rest = divmod(length, limits.CHUNK_BYTES)
    if full < 1000:
        lengths = chunk_lengths(FileEntry("f", length, HASH, ()))
        assert sum(lengths) == length
        assert all(part == limits.CHUNK_BYTES for part in lengths[:-1])
        assert not lengths or lengths[-1] == (rest or limits.CHUNK_BYTES)


@given(text=st.text(max_size=30))
def test_a_plain_path_never_leads_out_of_its_folder(text: str) -> None:
    if is_plain_path(text):
        assert text.isascii() and not text.startswith(("/", "-", ".")) and "//" not in text
        assert not {"..", ".", ""} & set(text.split("/"))


def test_questions_to_a_manifest() -> None:
    manifest = a_manifest(engines=(NUMPY, msgspec.structs.replace(NUMPY, engine="paddle", parameters="golden/x.npy")))
    assert manifest.label() == "tiny@1.0.0"
    assert manifest.file("model.json") == file_entry("model.json", b"program")
    with pytest.raises(KeyError):
        manifest.file("other")
    assert manifest.fits_device("jetson") and not manifest.fits_device("arm")
    assert a_manifest(compatible=("*",)).fits_device("arm")
    paddle = manifest.profile_for(("paddle",))
    assert paddle is not None and paddle.files() == ("model.json", "golden/x.npy")
    first = manifest.profile_for(("paddle", "numpy"))
    assert first is not None and first.engine == "numpy"  # the publisher's order counts, not the device's
    assert manifest.profile_for(("lite",)) is None
