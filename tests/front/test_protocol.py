"""Requests of the Open Inference Protocol v2, byte by byte: what is taken, and what is refused with which words.

HTTP is not involved.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.front.errors import BadRequest, RequestError
from edge_agent.front.protocol import InferRequest, OutputTensor, build_response, model_metadata, parse_infer
from edge_agent.front.routes import TensorSpec
from tests.front.bodies import BODY_BYTES_MAX, NUMBERS, PAIR, binary, packed, parse, route, tensor

NAN = float("nan")


def one_of(dtype: str) -> Any:
    return route(TensorSpec("x", dtype, (-1,)))


def refused(body: bytes, json_bytes: int | None = None, to: Any = None) -> RequestError:
    """The error of a body that has to be refused."""
    with pytest.raises(RequestError) as caught:
        parse_infer(body, json_bytes, to or route(), BODY_BYTES_MAX)
    assert 400 <= caught.value.status < 500
    assert "\n" not in caught.value.text
    return caught.value


@pytest.mark.parametrize("dtype", NUMBERS)
def test_json_and_binary_of_every_dtype_give_the_same_bytes(dtype: str) -> None:
    letter, values = NUMBERS[dtype]
    raw = struct.pack(f"<{len(values)}{letter}", *values)
    whole = tensor(shape=[2], datatype=dtype, data=values)
    by_json = parse(whole, to=one_of(dtype)).inputs[0]
    by_binary = parse(binary(len(raw), shape=[2], datatype=dtype), to=one_of(dtype), raw=raw).inputs[0]
    assert bytes(by_json.data) == bytes(by_binary.data) == raw
    assert by_json.dims == (2,)


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
def test_half_precision_travels_as_binary_data_only(dtype: str) -> None:
    taken = parse(binary(4, shape=[2], datatype=dtype), to=one_of(dtype), raw=b"\x00\x3c\x00\x40")
    assert bytes(taken.inputs[0].data) == b"\x00\x3c\x00\x40"
    with pytest.raises(BadRequest, match="send it as binary data"):
        parse(tensor(shape=[2], datatype=dtype, data=[1, 2]), to=one_of(dtype))


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("UINT8", [0, 256]),
        ("UINT8", [-1, 0]),
        ("UINT64", [0, 2**64]),
        ("INT64", [0, 2**63]),
        ("INT8", [0, 10**400]),
        ("FP32", [0, 1e39]),
        ("FP64", [0, 10**400]),
        ("INT32", [0, 1.0]),
        ("INT32", [0, True]),
        ("FP32", [0, True]),
        ("FP32", [0, None]),
        ("FP32", [0, "1"]),
        ("FP32", [0, NAN]),
        ("FP32", [0, float("inf")]),
        ("BOOL", [True, 1]),
    ],
)
def test_a_number_that_does_not_fit_its_dtype_is_refused(dtype: str, values: list[Any]) -> None:
    with pytest.raises(BadRequest):
        parse(tensor(shape=[2], datatype=dtype, data=values), to=one_of(dtype))


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1, 2]], [[3, 4]]]])
def test_json_data_may_be_nested_or_flat(data: list[Any]) -> None:
    assert bytes(parse(tensor(shape=[2, 2], data=data)).inputs[0].data) == packed(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (tensor(name="z"), "no input 'z' (it has: x)"),
        (tensor(datatype="FP64"), "is FP64, the model wants FP32"),
        (tensor(datatype="BYTES", data=["a", "b"]), "BYTES is not supported"),
        (tensor(datatype="FLOAT"), "unknown datatype 'FLOAT'"),
        (tensor(shape=[2]), "1 dimensions, the model wants 2"),
        (tensor(shape=[1, 3], data=[1, 2, 3]), "shape [1, 3], the model wants [-1, 2]"),
        (tensor(shape=[0, 2], data=[]), "shape [0, 2]"),
        (tensor(shape=[-1, 2]), ">= 0"),
        (tensor(shape=[1.0, 2]), "Expected `int`"),
        (tensor(shape=[10**400, 2]), "<= 1099511627776"),
        (tensor(shape=[2**40, 2]), "has 2 elements, its shape wants 2199023255552"),
        (tensor(shape=[1] * 50), "50 dimensions"),
        (tensor(data=[1]), "has 1 elements, its shape wants 2"),
        (tensor(data=[1, 2, 3]), "has 3 elements, its shape wants 2"),
        (tensor(data=[[], 1]), "is not 2 numbers"),
        (tensor(shape=[1, 2], data=[[], []]), "is not 2 numbers"),
        (tensor(data=5), "not a list"),
        (tensor(data={"a": 1}), "not a list"),
        (tensor(data=None), "neither data nor binary_data_size"),
        (tensor(shape=None), "shape"),
        (tensor(datatype=None), "datatype"),
        (tensor(name=None), "name"),
        (binary(8) | {"data": [1, 2]}, "both data and binary_data_size"),
        (binary(8), "the body ends before its 8 bytes"),
        (binary(True), "Expected `int"),
        (binary(-8), "binary_data_size is -8, its shape wants 8 bytes"),
        (binary(12), "binary_data_size is 12, its shape wants 8 bytes"),
        (binary(2**70), "binary_data_size"),
    ],
)
def test_a_wrong_input_is_refused_with_words_that_say_what_is_wrong(given: dict[str, Any], words: str) -> None:
    assert words in refused(json.dumps({"inputs": [given]}).encode()).text


def test_each_input_has_to_be_there_once_and_may_come_in_any_order() -> None:
    a, b = tensor(name="a"), tensor(name="b", shape=[2], datatype="INT64", data=[3, 4])
    taken = parse(b, a, to=PAIR)
    assert [bytes(part.data) for part in taken.inputs] == [packed(1, 2), struct.pack("<2q", 3, 4)]
    with pytest.raises(BadRequest, match="'b' is missing"):
        parse(a, to=PAIR)
    with pytest.raises(BadRequest, match="'a' is given twice"):
        parse(a, b, a, to=PAIR)
    with pytest.raises(BadRequest, match="no input 'c'"):
        parse(a, b, tensor(name="c"), to=PAIR)


def test_binary_data_are_taken_in_the_order_of_the_request() -> None:
    a, b = binary(8, name="a"), binary(16, name="b", shape=[2], datatype="INT64")
    taken = parse(b, a, to=PAIR, raw=struct.pack("<2q", 3, 4) + packed(1, 2))
    assert [bytes(part.data) for part in taken.inputs] == [packed(1, 2), struct.pack("<2q", 3, 4)]


def test_binary_and_json_inputs_may_be_mixed() -> None:
    b = binary(16, name="b", shape=[2], datatype="INT64")
    taken = parse(tensor(name="a"), b, to=PAIR, raw=struct.pack("<2q", 3, 4))
    assert [bytes(part.data) for part in taken.inputs] == [packed(1, 2), struct.pack("<2q", 3, 4)]


def test_bytes_after_the_last_input_are_refused() -> None:
    with pytest.raises(BadRequest, match="1 bytes follow the last input"):
        parse(binary(), raw=packed(1, 2) + b"\0")
    assert "malformed" in refused(json.dumps({"inputs": [tensor()]}).encode() + b" x").text


@pytest.mark.parametrize("shift", [-1, 1, -10_000, 10_000, 2**40])
def test_a_wrong_length_of_the_json_part_is_refused(shift: int) -> None:
    head = json.dumps({"inputs": [binary()]}).encode()
    refused(head + packed(1, 2), len(head) + shift)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"outputs": [{"name": "z"}]}, "no output 'z' (it has: y)"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "asked for twice"),
        ({"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, "classification"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]}, "bool"),
        ({"outputs": [{}]}, "name"),
        ({"outputs": {"name": "y"}}, "array"),
        ({"id": 7}, "str"),
        ({"parameters": {"binary_data_output": 1}}, "bool"),
        ({"inputs": {}}, "array"),
        ({"inputs": []}, "'x' is missing"),
        ({"inputs": [tensor()] * 65}, "length <= 64"),
    ],
)
def test_a_wrong_field_beside_the_inputs_is_refused(fields: dict[str, Any], words: str) -> None:
    assert words in refused(json.dumps({"inputs": [tensor()], **fields}).encode()).text


def test_parameters_that_nobody_here_knows_are_ignored() -> None:
    taken = parse(tensor(parameters={"mine": [1]}), parameters={"priority": 1}, trace={"a": []}, id="7")
    assert taken.request_id == "7"


def test_of_two_equal_keys_the_last_one_counts() -> None:
    body = b'{"inputs":[],"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[9],"data":[1,2]}]}'
    assert bytes(parse_infer(body, None, route(), BODY_BYTES_MAX).inputs[0].data) == packed(1, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"FP32"}]}',
        b'{"inputs":[{"name":"\xff","shape":[1],"datatype":"FP32"}]}',
        b'{"inputs":' + b"[" * 200_000,
        b'{"inputs":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"ignored":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":' + b"[" * 200_000 + b"]" * 200_000 + b"}]}",
        b'{"inputs":[{"name":"x","shape":[1000000000,1000000000],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]} {}',
        b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1 [,2]]}]}',
    ],
)
def test_malformed_json_is_a_bad_request(body: bytes) -> None:
    assert refused(body).status == 400


@pytest.mark.parametrize("filler", [b"[],", b"1.5,", b'{"a":1},', b"null,"])
@pytest.mark.parametrize(
    "place", [b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[', b'{"other":[{"a":[']
)
def test_a_hostile_body_costs_no_more_memory_than_a_few_times_its_size(place: bytes, filler: bytes) -> None:
    body = place + filler * (900_000 // len(filler)) + b"0]}]}"
    tracemalloc.start()
    try:
        refused(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body)


def test_inputs_that_need_more_bytes_than_a_body_may_have_are_too_large() -> None:
    count = BODY_BYTES_MAX // 4
    body = b'{"inputs":[{"name":"x","shape":[%d,2],"datatype":"FP32","data":[%s1]}]}' % (count, b"1," * (2 * count - 1))
    assert refused(body).status == 413


tensors_or_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["x", "y", "FP32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(
    inputs=st.lists(tensors_or_junk | st.builds(tensor, data=tensors_or_junk, shape=tensors_or_junk), max_size=3),
    outputs=tensors_or_junk,
    raw=st.binary(max_size=20),
    length=st.none() | st.integers(-5, 200),
)
def test_whatever_json_arrives_is_taken_or_refused(inputs: Any, outputs: Any, raw: bytes, length: int | None) -> None:
    body = json.dumps({"inputs": inputs, "outputs": outputs}).encode() + raw
    taken_or_refused(body, length)


@settings(max_examples=300)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=3),
    end=st.integers(0, 220),
    length=st.none() | st.integers(0, 250),
)
def test_whatever_bytes_arrive_they_are_taken_or_refused(
    cuts: list[tuple[int, bytes]], end: int, length: int | None
) -> None:
    body = json.dumps({"inputs": [binary(), tensor()], "outputs": [{"name": "y"}]}).encode() + packed(1, 2)
    for at, junk in cuts:
        body = body[:at] + junk + body[at + len(junk) :]
    taken_or_refused(body[:end], length)


def taken_or_refused(body: bytes, length: int | None) -> None:
    try:
        taken = parse_infer(body, length, route(), BODY_BYTES_MAX)
    except RequestError as error:
        assert error.status in (400, 413)
        assert error.text
    else:
        assert [len(part.data) for part in taken.inputs] == [8 * taken.inputs[0].dims[0]]


@settings(max_examples=100)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=40))
def test_numbers_come_back_as_they_went(values: list[float]) -> None:
    values = values[: len(values) // 2 * 2]
    raw = packed(*values)
    asked = parse(tensor(shape=[len(values) // 2, 2], data=values))
    body, length = build_response("m", route(), asked, (OutputTensor("FP32", (1,), memoryview(raw)),))
    assert length is None
    assert json.loads(body)["outputs"][0]["data"] == values
    assert bytes(asked.inputs[0].data) == raw


# ---- answers


def answer(asked: InferRequest, *values: float) -> tuple[bytes, int | None]:
    output = OutputTensor("FP32", (1, len(values)), memoryview(packed(*values)))
    return build_response("tiny", route(), asked, (output,))


def test_an_answer_names_model_version_outputs_and_the_id_only_when_there_is_one() -> None:
    plain, length = answer(parse(tensor()), 1.5, 2.0)
    assert length is None
    assert json.loads(plain) == {
        "model_name": "tiny",
        "model_version": "1.0.0",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]}],
    }
    assert json.loads(answer(parse(tensor(), id="a"), 1.0)[0])["id"] == "a"
    assert json.loads(answer(parse(tensor(), id=""), 1.0)[0])["id"] == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "y"}], "parameters": {"binary_data_output": True}},
    ],
)
def test_binary_outputs_follow_the_json(fields: dict[str, Any]) -> None:
    body, length = answer(parse(tensor(), **fields), 1.5, NAN)
    assert length is not None
    (described,) = json.loads(body[:length])["outputs"]
    assert described["parameters"] == {"binary_data_size": 8}
    assert "data" not in described
    assert body[length:] == packed(1.5, NAN)


def test_an_output_may_be_json_although_the_others_are_binary() -> None:
    asked = parse(
        tensor(),
        outputs=[{"name": "y", "parameters": {"binary_data": False}}],
        parameters={"binary_data_output": True},
    )
    assert answer(asked, 1.0)[1] is None


def test_nan_has_no_json_form_and_the_answer_says_what_to_ask_for() -> None:
    with pytest.raises(BadRequest, match="ask for binary_data"):
        answer(parse(tensor()), NAN)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_outputs_of_every_dtype_become_json(dtype: str) -> None:
    letter, values = NUMBERS[dtype]
    raw = memoryview(struct.pack(f"<{len(values)}{letter}", *values))
    to = route(outputs=(TensorSpec("y", dtype, (-1,)),))
    body, _ = build_response("tiny", to, parse(tensor(), to=to), (OutputTensor(dtype, (2,), raw),))
    given = json.loads(body)["outputs"][0]["data"]
    assert given == values
    assert [type(value) for value in given] == [type(value) for value in values]


def test_outputs_are_answered_in_the_order_in_which_they_were_asked_for() -> None:
    to = route(outputs=(TensorSpec("y", "FP32", (1,)), TensorSpec("z", "FP32", (1,))))
    outputs = tuple(OutputTensor("FP32", (1,), memoryview(packed(value))) for value in (1.0, 2.0))
    asked = parse(tensor(), to=to, outputs=[{"name": "z"}, {"name": "y"}])
    described = json.loads(build_response("tiny", to, asked, outputs)[0])["outputs"]
    assert [(part["name"], part["data"]) for part in described] == [("z", [2.0]), ("y", [1.0])]


def test_metadata_states_name_version_inputs_and_outputs() -> None:
    assert model_metadata("tiny", route()) == {
        "name": "tiny",
        "versions": ["1.0.0"],
        "platform": "holdfast",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
