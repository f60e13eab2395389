"""`python -m tests.tools.demo_picture`: docs/demo.svg from the report of a real run; what the run does is `demo`'s.

Run `make demo` first. Only figures of that run get into the picture.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

from tests.demo.__main__ import REPORT
from tests.harness.agent import ROOT

PICTURE = ROOT / "docs" / "demo.svg"
HEAD_PX = 44  # room above the timeline for figures and legend
STYLE = "text{font:11px system-ui,sans-serif;fill:#4a5666}text.figures{font-size:13px;font-weight:600;fill:#1c2430}"


def picture(report: str) -> str:
    """The report's timeline as a file of its own, with its figures and legend above. Raises ValueError: no report."""
    chart = re.search(r'<svg viewBox="0 0 (\d+) (\d+)"[^>]*>(.*?)</svg>', report, re.DOTALL)
    if chart is None:
        raise ValueError("no timeline in the report")
    width, height, drawn = int(chart[1]), int(chart[2]), chart[3]
    figures = [(html.unescape(name), value) for value, name in re.findall(r"<div><b>(.*?)</b>(.*?)</div>", report)]
    line = ", ".join(f"{name} {value}" for name, value in figures)
    legend, x = [], 4
    for colour, version in re.findall(r'<i style="background:(#\w+)"></i>(.*?)</span>', report):
        legend.append(f'<rect x="{x}" y="24" width="10" height="10" fill="{colour}"/>')
        legend.append(f'<text x="{x + 14}" y="33">answers from {version}</text>')
        x += 130
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + HEAD_PX}" role="img">'
        f"<title>make demo: answers over time by version, and each fault</title><style>{STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="figures" x="4" y="15">make demo: {html.escape(line)}</text>{"".join(legend)}'
        f'<g transform="translate(0 {HEAD_PX})">{drawn}</g></svg>\n'
    )


def main(report: Path = REPORT) -> int:
    """0: written. 1: there is no report to draw."""
    try:
        PICTURE.write_text(picture(report.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"{report}: {error}. Run `make demo` first", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
