"""The story as one HTML file without anything from outside: a timeline of answers by version, each fault, the steps."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path
from string import Template

from tests.demo.stage import Stage

BUCKET_S = 0.1
COLOURS = ("#6b7a8f", "#2f7ebc", "#2a9d5c", "#c2703d", "#8e5bb5")

PAGE = Template((Path(__file__).parent / "report.html").read_text())


def write_report(stage: Stage, out: Path, journal: list[dict[str, object]]) -> Path:
    """Write the page; its path."""
    records = list(stage.client.records)
    versions = sorted({record.version for record in records if record.version})
    colours = dict(zip(versions, COLOURS, strict=False))
    figures = {
        "requests": len(records),
        "mismatches": stage.client.mismatches,
        "failed requests": stage.client.failed,
        "slowest answer": f"{max((r.took_s for r in records), default=0) * 1000:.0f} ms",
        "steps that held": f"{sum(step.held for step in stage.steps)} of {len(stage.steps)}",
    }
    page = PAGE.substitute(
        figures="".join(f"<div><b>{html.escape(str(v))}</b>{html.escape(k)}</div>" for k, v in figures.items()),
        legend="".join(f'<span><i style="background:{c}"></i>{html.escape(v)}</span>' for v, c in colours.items()),
        chart=_chart(stage, versions, colours),
        steps="".join(_step_row(step.title, step.held, step.took_s, step.seen) for step in stage.steps),
        journal="".join(_journal_row(line) for line in journal),
    )
    out.write_text(page, encoding="utf-8")
    return out


def _chart(stage: Stage, versions: list[str], colours: dict[str, str]) -> str:
    records = list(stage.client.records)
    end_s = max((record.at_s for record in records), default=1.0)
    buckets: dict[int, Counter[str]] = {}
    for record in records:
        key = record.version if record.status == 200 and record.matches else "wrong"
        buckets.setdefault(int(record.at_s / BUCKET_S), Counter())[key] += 1
    top = max((sum(counter.values()) for counter in buckets.values()), default=1)
    width, height, base = 1060.0, 320.0, 220.0
    bars = []
    for bucket, counter in buckets.items():
        y = base
        for version in [*versions, "wrong"]:
            tall = counter[version] / top * 190
            if tall:
                y -= tall
                x = bucket * BUCKET_S / end_s * width
                fill = colours.get(version, "#b3261e")
                bars.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width * BUCKET_S / end_s, .8):.2f}"'
                            f' height="{tall:.1f}" fill="{fill}"/>')  # fmt: skip
    lines = []
    for number, (at_s, text) in enumerate(stage.marks):
        x, y = at_s / end_s * width, base + 16 + (number % 6) * 14
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="{y - 10:.1f}" stroke="#b3261e" stroke-dasharray="2 3"/>'
        )
        anchor = "end" if x > width * 0.85 else "start"
        lines.append(f'<text x="{x + 2:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>')
    ticks = "".join(
        f'<text x="{s / end_s * width:.1f}" y="14">{s} s</text>'
        for s in range(0, int(end_s) + 1, max(1, int(end_s / 12)))
    )
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(bars)}{"".join(lines)}{ticks}</svg>'


def _step_row(title: str, held: bool, took_s: float, seen: str) -> str:
    outcome = '<td class="ok">held</td>' if held else '<td class="bad">failed</td>'
    return f"<tr><td>{html.escape(title)}</td>{outcome}<td>{took_s:.1f}</td><td>{html.escape(seen)}</td></tr>"


def _journal_row(line: dict[str, object]) -> str:
    from datetime import UTC, datetime

    at_ms = line["at_unix_ms"]
    assert isinstance(at_ms, int)
    at = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    words = [line[key] for key in ("kind", "phase", "reason", "detail") if line.get(key)]
    fact = html.escape(" · ".join(str(word) for word in words))
    return f"<tr><td>{at}</td><td>{html.escape(json.dumps(line.get('version')))}</td><td>{fact}</td></tr>"
