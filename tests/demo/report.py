"""The story as one HTML file without anything from outside: per device a timeline of answers, each fault, the steps."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path
from string import Template

from tests.demo.stage import Stage
from tests.harness.client import RecordingClient

BUCKET_S = 0.2
WIDTH_PX, TOP_PX, LANE_PX = 1060, 18, 110
LABEL_ROWS, LABEL_PX = 9, 13
COLOURS = ("#6b7a8f", "#2f7ebc", "#2a9d5c", "#c2703d", "#8e5bb5")

PAGE = Template((Path(__file__).parent / "report.html").read_text())


def write_report(stage: Stage, out: Path, journal: list[dict[str, object]]) -> Path:
    """Write the page; its path."""
    clients = list(stage.clients.values())
    records = [record for client in clients for record in list(client.records)]
    versions = sorted({record.version for record in records if record.version})
    colours = dict(zip(versions, COLOURS, strict=False))
    figures = {
        "devices": len(clients),
        "requests": len(records),
        "mismatches": sum(client.mismatches for client in clients),
        "failed requests": sum(client.failed for client in clients),
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
    """A lane for each device over one axis of time, that of the first client; faults and commands across all lanes."""
    began_s = stage.client.started_s
    lanes = {name: _buckets(client, client.started_s - began_s) for name, client in stage.clients.items()}
    end_s = (1 + max((bucket for lane in lanes.values() for bucket in lane), default=0)) * BUCKET_S
    drawn = [
        _lane(name, lane, TOP_PX + number * LANE_PX, end_s, [*versions, "wrong"], colours)
        for number, (name, lane) in enumerate(lanes.items())
    ]
    bottom = TOP_PX + len(lanes) * LANE_PX
    marks = [_mark(at_s / end_s * WIDTH_PX, bottom, number, text) for number, (at_s, text) in enumerate(stage.marks)]
    ticks = "".join(
        f'<text x="{s / end_s * WIDTH_PX:.0f}" y="12">{s} s</text>'
        for s in range(0, int(end_s) + 1, max(1, int(end_s / 12)))
    )
    height = bottom + LABEL_ROWS * LABEL_PX + 8
    return f'<svg viewBox="0 0 {WIDTH_PX} {height}" role="img">{"".join(drawn)}{"".join(marks)}{ticks}</svg>'


def _buckets(client: RecordingClient, offset_s: float) -> dict[int, Counter[str]]:
    """Answers by version in each piece of time; what was wrong or failed has a name of its own."""
    buckets: dict[int, Counter[str]] = {}
    for record in list(client.records):
        key = record.version if record.status == 200 and record.matches else "wrong"
        buckets.setdefault(int((record.at_s + offset_s) / BUCKET_S), Counter())[key] += 1
    return buckets


def _lane(
    name: str, lane: dict[int, Counter[str]], top: int, end_s: float, versions: list[str], colours: dict[str, str]
) -> str:
    """Bars, stacked by version; one path a version, so that the picture stays small."""
    busiest = max((sum(counter.values()) for counter in lane.values()), default=1)
    base, step = top + LANE_PX - 8, BUCKET_S / end_s * WIDTH_PX
    paths: dict[str, list[str]] = {}
    for bucket, counter in sorted(lane.items()):
        y = float(base)
        for version in versions:
            tall = counter[version] / busiest * (LANE_PX - 24)
            if tall:
                paths.setdefault(version, []).append(f"M{(bucket + 0.5) * step:.1f} {y:.0f}v-{max(tall, 1):.0f}")
                y -= tall
    drawn = "".join(
        f'<path d="{"".join(bars)}" stroke="{colours.get(version, "#b3261e")}" stroke-width="{step + 0.1:.2f}"/>'
        for version, bars in paths.items()
    )
    return f'{drawn}<text x="2" y="{top + 10}">{html.escape(name)}</text>'


def _mark(x: float, bottom: int, number: int, text: str) -> str:
    """A fault or a command: a line through all lanes, with its words below, in rows so that few overlap."""
    y = bottom + (number % LABEL_ROWS) * LABEL_PX + 12
    anchor = "end" if x > WIDTH_PX * 0.85 else "start"
    return (
        f'<path d="M{x:.1f} 18V{y - 9}" stroke="#b3261e" stroke-dasharray="2 3"/>'
        f'<text x="{x + 2:.1f}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'
    )


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
