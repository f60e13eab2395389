"""`python -m tests.tools.protocol_table` writes the table of channels in docs/protocol.md, from the contract; the rest
of that page is written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_agent.contract import limits, topics
from edge_agent.contract.topics import CHANNELS, Channel, Direction
from tests.harness.agent import ROOT

DOCUMENT = ROOT / "docs" / "protocol.md"
BEGIN, END = "<!-- channels: made by tests/tools/protocol_table.py -->\n", "<!-- end of channels -->\n"
HEAD = ("topic", "says", "document", "QoS", "retained", "expires", "at most", "signed as")


def table() -> str:
    """A row for each channel; what devices say comes first."""
    rows = [HEAD, ("---",) * len(HEAD), *map(_row, CHANNELS)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(channel: Channel) -> tuple[str, ...]:
    topic = channel.topic("ID").removeprefix(f"{topics.PREFIX}/")
    return (
        f"`{topic}`",
        f"{'device' if channel.direction is Direction.UP else 'coordinator'}: {channel.says}",
        f"`{channel.document.__name__}`" if channel.document else "raw bytes",
        str(channel.qos),
        "yes" if channel.retain else "",
        f"{channel.expiry_s} s" if channel.expiry_s is not None else "",
        f"{channel.bytes_max // limits.KIB} KiB",
        f"`{channel.signed}`" if channel.signed else "",
    )


def with_table(page: str) -> str:
    """The page with the present table. Raises ValueError when its markers are gone."""
    before, rest = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    return before + table() + rest


def main(out: Path = DOCUMENT) -> int:
    """Write the table into the page."""
    out.write_text(with_table(out.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
