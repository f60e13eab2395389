"""Canonical JSON: one content, one form, one digest; numbers that JSON cannot carry are refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.contract.canonical import encode, sha256_hex
from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=20,
)


@given(document=documents)
def test_what_is_written_reads_back_the_same_and_is_written_the_same_again(document: Any) -> None:
    raw = encode(document)
    assert json.loads(raw) == document
    assert encode(json.loads(raw)) == raw


@given(pairs=st.lists(st.tuples(st.text(max_size=8), st.integers(0, 9)), max_size=6, unique_by=lambda pair: pair[0]))
def test_the_order_of_fields_does_not_matter(pairs: list[tuple[str, int]]) -> None:
    assert encode(dict(pairs)) == encode(dict(reversed(pairs)))


def test_the_form_is_that_of_rfc_8785() -> None:
    """The example of section 3.2.3 (ordering by UTF-16 units) and numbers of appendix B."""
    sample = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    keys = list(json.loads(encode(sample)))
    assert keys == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert encode([333333333.33333329, 1e30, 4.50, 2e-3, 1e-27, -0.0]) == b"[333333333.3333333,1e+30,4.5,0.002,1e-27,0]"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**53, -(2**53), 10**400, object(), "\ud800"])
def test_what_json_cannot_carry_exactly_is_refused(value: Any) -> None:
    with pytest.raises(Rejected) as caught:
        encode({"a": [value]})
    assert caught.value.reason is Reason.MALFORMED


def test_a_digest_is_sha256_in_lower_case_hex() -> None:
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_hex(memoryview(b"xabcx")[1:4]) == sha256_hex(bytearray(b"abc"))
