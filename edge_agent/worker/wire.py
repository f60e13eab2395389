"""The words between runtime, front, fork server and worker: control frames and the binary data plane. No sockets are
opened here.

A control frame is !II (header bytes, payload bytes), a JSON object, raw payload; descriptors ride on its first byte.
A data frame is !I (length) and packed integers: tensors themselves are in shared memory, never in a frame.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

SCRATCH_SUFFIX = ".tmp"  # a worker's folder for temporary files is named after its socket, so that the runtime finds it
HEADER_BYTES_MAX = 1 << 20  # the largest header is a load request: file names and tensor specs
PAYLOAD_BYTES_MAX = 2 << 20  # one chunk of a snapshot is 1 MiB
FDS_MAX = 128  # two engine files and two files per golden tensor, at most 64 tensors a side
DATA_FRAME_BYTES_MAX = 64 << 10  # 128 tensor descriptors of rank 8 take 12 KiB
# Behind the slots of an arena: the number of the request that the worker computes, or computed last. Written before it
# touches an input, so that whoever finds the worker dead knows whether that request can have had a part in it.
BEGUN_BYTES = 64
_BEGUN = struct.Struct("<Q")
TENSORS_MAX = 64
RANK_MAX = 8

_FRAME = struct.Struct("!II")
_LENGTH = struct.Struct("!I")
_DATA_HEAD = struct.Struct("!QIB")
_TENSOR_HEAD = struct.Struct("!BBBQQ")
_DIMS = tuple(struct.Struct("!%dq" % rank) for rank in range(RANK_MAX + 1))

# Open Inference Protocol name -> (code on the wire, numpy's name, bytes per element)
DTYPES = {
    "BOOL": (0, "bool", 1),
    "UINT8": (1, "uint8", 1),
    "UINT16": (2, "uint16", 2),
    "UINT32": (3, "uint32", 4),
    "UINT64": (4, "uint64", 8),
    "INT8": (5, "int8", 1),
    "INT16": (6, "int16", 2),
    "INT32": (7, "int32", 4),
    "INT64": (8, "int64", 8),
    "FP16": (9, "float16", 2),
    "FP32": (10, "float32", 4),
    "FP64": (11, "float64", 8),
    "BF16": (12, "uint16", 2),  # numpy has no bfloat16: its bits travel as uint16
}
DTYPE_BY_CODE = {code: name for name, (code, _, _) in DTYPES.items()}

OK = 0
BAD_REQUEST = 1  # the request does not fit the model: the front should have refused it
ENGINE_ERROR = 2  # the engine raised
OUTPUT_TOO_LARGE = 3
NOT_LOADED = 4


class WireError(Exception):
    """The other side does not speak as agreed: the connection is of no use any more."""


class Tensor(NamedTuple):
    """Where a tensor lies in the slot: position in the manifest, dtype, dims, byte offset and byte length."""

    position: int
    dtype: str
    dims: Tuple[int, ...]
    offset: int
    nbytes: int


class DataRequest(NamedTuple):
    """Compute on the inputs in this slot."""

    request_id: int
    slot: int
    inputs: Tuple[Tensor, ...]


class DataReply(NamedTuple):
    """What became of a request: outputs in its slot, or a code other than OK and one line of text."""

    request_id: int
    code: int
    outputs: Tuple[Tensor, ...]
    text: str


# ---- control frames


def encode_frame(header: Dict[str, Any], payload: bytes = b"") -> bytes:
    """One control frame. Raises WireError when it would exceed the bounds."""
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > HEADER_BYTES_MAX or len(payload) > PAYLOAD_BYTES_MAX:
        raise WireError("frame too large: header %d, payload %d bytes" % (len(text), len(payload)))
    return b"".join((_FRAME.pack(len(text), len(payload)), text, payload))


class FrameDecoder:
    """Bytes in, whole frames out; holds at most one frame's worth of bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Tuple[Dict[str, Any], bytes]]:
        """Frames that these bytes complete. Raises WireError on anything that is not a frame."""
        self._buffer += data
        while len(self._buffer) >= _FRAME.size:  # each pass takes a frame out of the buffer
            header_bytes, payload_bytes = _FRAME.unpack_from(self._buffer)
            if header_bytes > HEADER_BYTES_MAX or payload_bytes > PAYLOAD_BYTES_MAX:
                raise WireError("frame announces %d + %d bytes" % (header_bytes, payload_bytes))
            end = _FRAME.size + header_bytes + payload_bytes
            if len(self._buffer) < end:
                return
            header = _parse_header(bytes(self._buffer[_FRAME.size : _FRAME.size + header_bytes]))
            payload = bytes(self._buffer[_FRAME.size + header_bytes : end])
            del self._buffer[:end]
            yield header, payload


def _parse_header(raw: bytes) -> Dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WireError("header is not JSON: %s" % error) from error
    if not isinstance(header, dict):
        raise WireError("header is not a JSON object")
    return header


def send_frame(sock: socket.socket, header: Dict[str, Any], payload: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send one frame on a blocking socket, with descriptors. Raises OSError when the other side is gone."""
    data = encode_frame(dict(header, fds=len(fds)) if fds else header, payload)
    if not fds:
        sock.sendall(data)
        return
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    sent = sock.sendmsg([data], ancillary)
    sock.sendall(data[sent:])


def receive(sock: socket.socket, nbytes: int = 1 << 18) -> Tuple[bytes, List[int]]:
    """Whatever is there: bytes and descriptors (close-on-exec). Empty bytes: the other side is gone."""
    space = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
    data, ancillary, _, _ = sock.recvmsg(nbytes, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)


# ---- the data plane


def write_begun(arena: Any, slots_bytes: int, request_id: int) -> None:
    """The worker's mark that it begins with this request. arena: the whole shared memory, slots_bytes: of all slots."""
    _BEGUN.pack_into(arena, slots_bytes, request_id)


def read_begun(arena: Any, slots_bytes: int) -> int:
    """The number of the request that was begun last, 0 for none."""
    begun: int = _BEGUN.unpack_from(arena, slots_bytes)[0]
    return begun


def encode_request(request: DataRequest) -> bytes:
    """A length-prefixed data frame."""
    parts = [_DATA_HEAD.pack(request.request_id, request.slot, len(request.inputs))]
    parts += [_pack_tensor(tensor) for tensor in request.inputs]
    return _with_length(b"".join(parts))


def decode_request(frame: bytes) -> DataRequest:
    """A frame without its length. Raises WireError."""
    request_id, slot, count, rest = _data_head(frame)
    tensors, end = _unpack_tensors(frame, rest, count)
    if end != len(frame):
        raise WireError("bytes after the last tensor")
    return DataRequest(request_id, slot, tensors)


def encode_reply(reply: DataReply) -> bytes:
    """A length-prefixed data frame; the code travels in the place of the slot."""
    parts = [_DATA_HEAD.pack(reply.request_id, reply.code, len(reply.outputs))]
    parts += [_pack_tensor(tensor) for tensor in reply.outputs]
    parts.append(reply.text.encode("utf-8")[:2000])
    return _with_length(b"".join(parts))


def decode_reply(frame: bytes) -> DataReply:
    """A frame without its length. Raises WireError."""
    request_id, code, count, rest = _data_head(frame)
    tensors, end = _unpack_tensors(frame, rest, count)
    return DataReply(request_id, code, tensors, frame[end:].decode("utf-8", "replace"))


class DataDecoder:
    """Bytes in, whole data frames out (without their length)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises WireError when a frame announces more than the bound."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:  # each pass takes a frame out of the buffer
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > DATA_FRAME_BYTES_MAX:
                raise WireError("data frame announces %d bytes" % length)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield frame


def _with_length(frame: bytes) -> bytes:
    return _LENGTH.pack(len(frame)) + frame


def _data_head(frame: bytes) -> Tuple[int, int, int, int]:
    if len(frame) < _DATA_HEAD.size:
        raise WireError("data frame is too short")
    request_id, number, count = _DATA_HEAD.unpack_from(frame)
    if count > TENSORS_MAX:
        raise WireError("%d tensors" % count)
    return request_id, number, count, _DATA_HEAD.size


def _pack_tensor(tensor: Tensor) -> bytes:
    head = _TENSOR_HEAD.pack(tensor.position, DTYPES[tensor.dtype][0], len(tensor.dims), tensor.offset, tensor.nbytes)
    return head + _DIMS[len(tensor.dims)].pack(*tensor.dims)


def _unpack_tensors(frame: bytes, at: int, count: int) -> Tuple[Tuple[Tensor, ...], int]:
    tensors = []
    for _ in range(count):
        if len(frame) < at + _TENSOR_HEAD.size:
            raise WireError("data frame ends inside a tensor")
        index, code, rank, offset, nbytes = _TENSOR_HEAD.unpack_from(frame, at)
        at += _TENSOR_HEAD.size
        if rank > RANK_MAX or code not in DTYPE_BY_CODE or len(frame) < at + 8 * rank:
            raise WireError("malformed tensor descriptor")
        tensors.append(Tensor(index, DTYPE_BY_CODE[code], _DIMS[rank].unpack_from(frame, at), offset, nbytes))
        at += 8 * rank
    return tuple(tensors), at


def element_count(dims: Sequence[int]) -> int:
    """Product of the dims; 1 for a scalar."""
    count = 1
    for dim in dims:
        count *= dim
    return count


def shape_fault(spec_shape: Sequence[int], dims: Sequence[int]) -> Optional[str]:
    """Why these dims do not fit the spec's shape (-1 = free, at least 1), or None."""
    if len(spec_shape) != len(dims):
        return "has %d dimensions, the model wants %d" % (len(dims), len(spec_shape))
    for wanted, dim in zip(spec_shape, dims):
        if dim < 1 or (wanted != -1 and wanted != dim):
            return "has shape %s, the model wants %s" % (list(dims), list(spec_shape))
    return None
