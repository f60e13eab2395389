"""The wire format: what is encoded comes back, and hostile bytes raise the named error alone. Sockets are not used."""

from __future__ import annotations

import itertools
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.worker import wire

U64 = st.integers(0, 2**64 - 1)
DIMS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=wire.RANK_MAX).map(tuple)
TENSORS = st.lists(
    st.builds(wire.Tensor, st.integers(0, 255), st.sampled_from(sorted(wire.DTYPES)), DIMS, U64, U64),
    max_size=wire.TENSORS_MAX,
).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
HEADERS = st.dictionaries(st.text(max_size=20), JSON, max_size=6)
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=200)), min_size=1, max_size=4)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes as a socket may deliver them."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(FRAMES, st.lists(st.integers(0, 10**6), max_size=5))
def test_control_frames_come_back_however_they_are_cut(frames: list[tuple[dict, bytes]], cuts: list[int]) -> None:
    decoder = wire.FrameDecoder()
    data = b"".join(wire.encode_frame(header, payload) for header, payload in frames)
    assert [frame for piece in pieces(data, cuts) for frame in decoder.feed(piece)] == frames


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), TENSORS, st.lists(st.integers(0, 10**6), max_size=5))
def test_requests_come_back(request_id: int, slot: int, tensors: tuple[wire.Tensor, ...], cuts: list[int]) -> None:
    request = wire.DataRequest(request_id, slot, tensors)
    data = wire.encode_request(request) * 2
    decoder = wire.DataDecoder()
    frames = [frame for piece in pieces(data, cuts) for frame in decoder.feed(piece)]
    assert [wire.decode_request(frame) for frame in frames] == [request, request]


@given(U64, st.integers(0, 4), TENSORS, st.text(max_size=300))
def test_replies_come_back(request_id: int, code: int, tensors: tuple[wire.Tensor, ...], text: str) -> None:
    reply = wire.DataReply(request_id, code, tensors, text)
    (frame,) = wire.DataDecoder().feed(wire.encode_reply(reply))
    assert wire.decode_reply(frame) == reply


@given(st.text(min_size=1000, max_size=3000))
def test_a_long_text_is_cut_and_not_refused(text: str) -> None:
    (frame,) = wire.DataDecoder().feed(wire.encode_reply(wire.DataReply(1, wire.ENGINE_ERROR, (), text)))
    said = wire.decode_reply(frame).text
    assert text.startswith(said.rstrip("\ufffd")) and len(said) >= 500


@given(st.binary(max_size=400))
def test_any_bytes_raise_the_named_error_or_nothing(data: bytes) -> None:
    for attempt in (
        lambda: list(wire.FrameDecoder().feed(data)),
        lambda: list(wire.DataDecoder().feed(data)),
        lambda: wire.decode_request(data),
        lambda: wire.decode_reply(data),
    ):
        try:
            attempt()
        except wire.WireError as error:
            assert str(error)


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_any_header_raises_the_named_error_or_is_an_object(header: bytes, payload: bytes) -> None:
    """The lengths are right here, so that what follows is reached."""
    frame = struct.pack("!II", len(header), len(payload)) + header + payload
    try:
        assert [isinstance(found, dict) for found, _ in wire.FrameDecoder().feed(frame)] == [True]
    except wire.WireError:
        return


@given(TENSORS, st.data())
def test_a_request_with_a_changed_byte_is_another_request_or_the_named_error(
    tensors: tuple[wire.Tensor, ...], data: st.DataObject
) -> None:
    frame = bytearray(wire.encode_request(wire.DataRequest(1, 0, tensors))[4:])
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    try:
        found = wire.decode_request(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    except wire.WireError:
        return
    assert len(found.inputs) <= wire.TENSORS_MAX
    assert all(len(tensor.dims) <= wire.RANK_MAX and tensor.dtype in wire.DTYPES for tensor in found.inputs)


@pytest.mark.parametrize("header", [b"[" * 100_000, b"1" * 5000, b"null", b"\xff", b'{"a": 1', b"", b"[1]"])
def test_headers_that_are_no_object(header: bytes) -> None:
    with pytest.raises(wire.WireError):
        list(wire.FrameDecoder().feed(struct.pack("!II", len(header), 0) + header))


def test_a_frame_that_announces_too_much_is_refused_before_it_is_read() -> None:
    for announced in ((wire.HEADER_BYTES_MAX + 1, 0), (0, wire.PAYLOAD_BYTES_MAX + 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(wire.WireError, match="announces"):
            list(wire.FrameDecoder().feed(struct.pack("!II", *announced)))
    with pytest.raises(wire.WireError, match="announces"):
        list(wire.DataDecoder().feed(struct.pack("!I", wire.DATA_FRAME_BYTES_MAX + 1)))


def test_more_tensors_than_a_model_may_have_are_refused() -> None:
    tensor = wire.Tensor(0, "FP32", (1,), 0, 4)
    (frame,) = wire.DataDecoder().feed(wire.encode_request(wire.DataRequest(1, 0, (tensor,) * (wire.TENSORS_MAX + 1))))
    for decode in (wire.decode_request, wire.decode_reply):
        with pytest.raises(wire.WireError, match="65 tensors"):
            decode(frame)


def test_what_the_other_side_would_refuse_is_not_sent() -> None:
    with pytest.raises(wire.WireError):
        wire.encode_frame({"x": "y" * wire.HEADER_BYTES_MAX})
    with pytest.raises(wire.WireError):
        wire.encode_frame({}, bytes(wire.PAYLOAD_BYTES_MAX + 1))


def test_the_largest_frames_pass() -> None:
    header = {"x": "y" * (wire.HEADER_BYTES_MAX - len(json.dumps({"x": ""}, separators=(",", ":"))))}
    payload = bytes(wire.PAYLOAD_BYTES_MAX)
    assert list(wire.FrameDecoder().feed(wire.encode_frame(header, payload))) == [(header, payload)]
    tensor = wire.Tensor(255, "FP64", (1,) * wire.RANK_MAX, 2**64 - 1, 2**64 - 1)
    request = wire.DataRequest(1, 1, (tensor,) * wire.TENSORS_MAX)
    (frame,) = wire.DataDecoder().feed(wire.encode_request(request))
    assert wire.decode_request(frame) == request


@given(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=4), st.lists(st.integers(-2, 4), max_size=4))
def test_a_shape_fits_where_each_dimension_is_the_wanted_one_or_free(wanted: list[int], dims: list[int]) -> None:
    fits = len(wanted) == len(dims) and all(d >= 1 and w in (-1, d) for w, d in zip(wanted, dims, strict=True))
    assert (wire.shape_fault(wanted, dims) is None) == fits
