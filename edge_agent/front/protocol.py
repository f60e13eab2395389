"""Open Inference Protocol v2, pure: request bytes in, checked tensors out; computed tensors in, response bytes out.

Everything that a model could choke on is refused here: names, dtypes, shapes, lengths. No socket, no worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from edge_agent.contract import limits
from edge_agent.front.errors import BadRequest, TooLarge
from edge_agent.front.routes import ModelRoute, TensorSpec
from edge_agent.front.tensors import bytes_to_json, check_count, element_bytes, json_to_bytes
from edge_agent.worker.wire import element_count, shape_fault

# What is not named here is skipped without being built: a hostile body costs no more memory than its own bytes.
_Dim = Annotated[int, Meta(ge=0, le=1 << 40)]  # beyond every body; sums and texts of dims stay small


class _InputParameters(Struct):
    binary_data_size: int | None = None


class _InputJson(Struct):
    name: str
    shape: list[_Dim]
    datatype: str
    parameters: _InputParameters = field(default_factory=_InputParameters)
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _OutputParameters(Struct):
    binary_data: bool | None = None
    classification: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _OutputJson(Struct):
    name: str
    parameters: _OutputParameters = field(default_factory=_OutputParameters)


class _InferParameters(Struct):
    binary_data_output: bool = False


class _InferJson(Struct):
    inputs: Annotated[list[_InputJson], Meta(max_length=limits.TENSORS_MAX)]
    outputs: Annotated[list[_OutputJson], Meta(max_length=limits.TENSORS_MAX)] | None = None
    id: str | None = None
    parameters: _InferParameters = field(default_factory=_InferParameters)


_DECODER = msgspec.json.Decoder(_InferJson)
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A checked input: dims without free ones, and exactly as many bytes as they need."""

    dtype: str
    dims: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked request. outputs: (position in the manifest, as binary) in the order in which they are wanted."""

    request_id: str | None
    inputs: tuple[InputTensor, ...]
    outputs: tuple[tuple[int, bool], ...]


def parse_infer(body: bytes, json_bytes: int | None, route: ModelRoute, input_bytes_max: int) -> InferRequest:
    """json_bytes: the Inference-Header-Content-Length, None when the whole body is JSON.

    input_bytes_max: of all inputs together. Raises BadRequest, or TooLarge.
    """
    view = memoryview(body)
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {json_bytes}, the body has {len(body)} bytes")
    head = body if json_bytes is None else body[:json_bytes]
    request = _decode(head)
    inputs, end = _inputs(request.inputs, route, view, len(head), input_bytes_max)
    if end != len(body):
        raise BadRequest(f"{len(body) - end} bytes follow the last input")
    return InferRequest(request.id, inputs, _wanted_outputs(request, route))


def _decode(head: bytes) -> _InferJson:
    try:
        return _DECODER.decode(head)
    except RecursionError:
        raise BadRequest("the request is malformed: its JSON is nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the request is malformed: {error}") from error


def _inputs(
    given: list[_InputJson], route: ModelRoute, body: memoryview, binary_at: int, bytes_left: int
) -> tuple[tuple[InputTensor, ...], int]:
    """Inputs in manifest order (they may be sent in any order), and where the binary data end."""
    specs = {spec.name: position for position, spec in enumerate(route.inputs)}
    found: dict[int, InputTensor] = {}
    at = binary_at
    for tensor in given:
        position = specs.get(tensor.name)
        if position is None:
            raise BadRequest(f"the model has no input {tensor.name[:80]!r} (it has: {', '.join(specs)})")
        if position in found:
            raise BadRequest(f"input {tensor.name!r} is given twice")
        spec = route.inputs[position]
        nbytes = _checked_bytes(tensor, spec)
        size = tensor.parameters.binary_data_size
        if size is None:
            data = memoryview(_json_data(tensor, nbytes, bytes_left))
            bytes_left -= nbytes
        else:
            if tensor.data is not msgspec.UNSET:
                raise BadRequest(f"input {spec.name!r} has both data and binary_data_size")
            if size != nbytes:
                raise BadRequest(f"input {spec.name!r}: binary_data_size is {size}, its shape wants {nbytes} bytes")
            if at + nbytes > len(body):
                raise BadRequest(f"input {spec.name!r}: the body ends before its {nbytes} bytes do")
            data = body[at : at + nbytes]
            at += nbytes
        found[position] = InputTensor(spec.dtype, tuple(tensor.shape), data)
    missing = [spec.name for position, spec in enumerate(route.inputs) if position not in found]
    if missing:
        raise BadRequest(f"input {missing[0]!r} is missing")
    return tuple(found[position] for position in range(len(route.inputs))), at


def _checked_bytes(tensor: _InputJson, spec: TensorSpec) -> int:
    """Bytes that this input has to have."""
    size = element_bytes(tensor.datatype)
    if tensor.datatype != spec.dtype:
        raise BadRequest(f"input {spec.name!r} is {tensor.datatype}, the model wants {spec.dtype}")
    if len(tensor.shape) > limits.TENSOR_RANK_MAX:
        raise BadRequest(f"input {spec.name!r} has {len(tensor.shape)} dimensions")
    fault = shape_fault(spec.shape, tensor.shape)
    if fault:
        raise BadRequest(f"input {spec.name!r} {fault}")
    return element_count(tensor.shape) * size


def _json_data(tensor: _InputJson, nbytes: int, bytes_max: int) -> bytes:
    if isinstance(tensor.data, msgspec.UnsetType):
        raise BadRequest(f"input {tensor.name!r} has neither data nor binary_data_size")
    raw, count = bytes(tensor.data), nbytes // element_bytes(tensor.datatype)
    check_count(tensor.name, raw, count)
    if nbytes > bytes_max:
        raise TooLarge("the inputs are larger than the bound on a body")
    return json_to_bytes(tensor.name, tensor.datatype, raw, count)


def _wanted_outputs(request: _InferJson, route: ModelRoute) -> tuple[tuple[int, bool], ...]:
    binary_default = request.parameters.binary_data_output
    if not request.outputs:
        return tuple((position, binary_default) for position in range(len(route.outputs)))
    positions = {spec.name: position for position, spec in enumerate(route.outputs)}
    wanted: list[tuple[int, bool]] = []
    for output in request.outputs:
        position = positions.get(output.name)
        if position is None:
            raise BadRequest(f"the model has no output {output.name[:80]!r} (it has: {', '.join(positions)})")
        if any(position == earlier for earlier, _ in wanted):
            raise BadRequest(f"output {output.name!r} is asked for twice")
        if output.parameters.classification is not msgspec.UNSET:
            raise BadRequest("the classification extension is not supported")
        as_binary = output.parameters.binary_data
        wanted.append((position, binary_default if as_binary is None else as_binary))
    return tuple(wanted)


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A computed output in manifest order."""

    dtype: str
    dims: tuple[int, ...]
    data: memoryview


def build_response(
    model: str, route: ModelRoute, request: InferRequest, outputs: tuple[OutputTensor, ...]
) -> tuple[bytes, int | None]:
    """Response body, and its JSON length when binary data follow. Copies the outputs.

    Raises BadRequest (NaN in JSON).
    """
    described: list[dict[str, Any]] = []
    binary: list[memoryview] = []
    for position, as_binary in request.outputs:
        tensor, name = outputs[position], route.outputs[position].name
        entry: dict[str, Any] = {"name": name, "datatype": tensor.dtype, "shape": list(tensor.dims)}
        if as_binary:
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            binary.append(tensor.data)
        else:
            entry["data"] = bytes_to_json(name, tensor.dtype, tensor.data)
        described.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": route.version, "outputs": described}
    if request.request_id is not None:
        document["id"] = request.request_id
    head = _ENCODER.encode(document)
    if not binary:
        return head, None
    return b"".join((head, *binary)), len(head)


def model_metadata(model: str, route: ModelRoute) -> dict[str, Any]:
    """The answer to GET /v2/models/NAME."""

    def described(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)} for spec in specs]

    return {
        "name": model,
        "versions": [route.version] if route.version else [],
        "platform": "holdfast",
        "inputs": described(route.inputs),
        "outputs": described(route.outputs),
    }
