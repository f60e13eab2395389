"""docs/protocol.md: its table is the contract's, its words exist, its diagrams are whole. What it explains is tested
where it is done.
"""

from __future__ import annotations

import re

import pytest

from edge_agent.contract import limits, presence, topics
from edge_agent.contract.envelope import CoordinatorKey
from edge_agent.contract.reasons import Reason
from edge_agent.contract.topics import CHANNELS
from tests.tools import protocol_table

PAGE = protocol_table.DOCUMENT.read_text(encoding="utf-8")
DIAGRAMS = re.findall(r"^```mermaid\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES_MAX = 250
ARROW = re.compile(r"(\w+)--?>>(\w+): (.+)")


def test_the_table_of_channels_is_the_contracts() -> None:
    assert protocol_table.with_table(PAGE) == PAGE, "run: .venv/bin/python -m tests.tools.protocol_table"
    assert all(f"`{channel.topic('ID').removeprefix('holdfast/1/')}`" in PAGE for channel in CHANNELS)


def test_a_page_without_its_markers_is_not_written() -> None:
    with pytest.raises(ValueError, match="substring"):
        protocol_table.with_table(PAGE.replace(protocol_table.END, ""))


def test_the_page_is_short_enough_to_be_read() -> None:
    assert len(PAGE.splitlines()) <= LINES_MAX


def test_the_diagrams_have_their_participants_and_show_each_channel() -> None:
    assert len(DIAGRAMS) == 5
    said = []
    for diagram in DIAGRAMS:
        assert diagram.startswith("sequenceDiagram\n")
        declared = set(re.findall(r"participant (\w+) as", diagram))
        arrows = [found for line in diagram.splitlines() if (found := ARROW.match(line.strip()))]
        assert {name for arrow in arrows for name in (arrow[1], arrow[2])} == declared
        assert all(";" not in line for line in diagram.splitlines()), "mermaid ends a statement there"
        said += [arrow[3] for arrow in arrows]
    words = set(re.findall(r"[a-z]+", " ".join(said)))
    assert {channel.name for channel in CHANNELS} <= words


def test_reasons_fields_and_numbers_on_the_page_are_the_codes() -> None:
    table = PAGE[PAGE.index("## What may go wrong") : PAGE.index("## What is trusted")]
    named = set(re.findall(r"`([a-z_]+)`", table)) - {"device_id"}
    assert named and named <= {reason.value for reason in Reason}
    assert {"epoch", "public_key"} <= set(CoordinatorKey.__struct_fields__)
    assert f"the outbox holds {limits.OUTBOX_REPORTS_MAX:,}" in PAGE
    assert f"0..{limits.PART_BYTES_MAX}" in PAGE
    assert f"holdfast/{presence.CONTRACT_VERSIONS[0]}" == topics.PREFIX


def test_what_the_page_links_to_is_there() -> None:
    folder = protocol_table.DOCUMENT.parent
    linked = re.findall(r"\]\(([\w./-]+)\)", PAGE)
    assert linked and all((folder / path).exists() for path in linked)
    named = re.findall(r"`((?:edge_agent|tests|docs)/[\w./-]+)`", PAGE)
    assert named and all((folder.parent / path).exists() for path in named)
