"""Every reason has its words: a log line, a next step, and a paragraph in docs/reasons.md."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract.reasons import Blame, Reason

PARTS = ("Means:", "The device:", "Next:")
DOCS = Path(__file__).parents[2] / "docs" / "reasons.md"


def sections() -> dict[str, str]:
    """The text under each `### word` heading."""
    parts = re.split(r"^### `([a-z_]+)`$", DOCS.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_says_what_happened_and_what_to_do(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason.value)
    assert reason.name == reason.value.upper()
    assert isinstance(reason.blame, Blame)
    assert 20 < len(reason.log_line) < 120 and "\n" not in reason.log_line
    assert len(reason.next_step) > 5 and "\n" not in reason.next_step


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_paragraph_in_the_docs(reason: Reason) -> None:
    text = sections().get(reason.value, "")
    assert text, f"docs/reasons.md has no heading ### `{reason.value}`"
    for part in PARTS:
        said = re.search(rf"\*\*{part}\*\* (.+?)(?=\n\*\*|\Z)", text, flags=re.DOTALL)
        assert said and len(said[1].strip()) > 12, f"{reason.value} in docs/reasons.md lacks **{part}**"


def test_the_docs_have_no_reason_that_is_gone_and_put_each_under_its_blame() -> None:
    assert set(sections()) == {reason.value for reason in Reason}
    by_chapter = re.split(r"^## .*\(`([a-z]+)`\)$", DOCS.read_text(), flags=re.MULTILINE)
    for blame, chapter in zip(by_chapter[1::2], by_chapter[2::2], strict=True):
        words = set(re.findall(r"^### `([a-z_]+)`$", chapter, flags=re.MULTILINE))
        assert words == {reason.value for reason in Reason if reason.blame == blame}


def test_no_two_reasons_say_the_same() -> None:
    assert len({reason.log_line for reason in Reason}) == len(Reason)


def test_a_reason_goes_through_json_as_its_word() -> None:
    raw = msgspec.json.encode(Reason.SIGNATURE)
    assert raw == b'"signature"' and msgspec.json.decode(raw, type=Reason) is Reason.SIGNATURE
    assert f"{Reason.PROOF}" == "proof" and msgspec.convert("proof", Reason) is Reason.PROOF
