"""Log lines about one device are few, however much it says; nothing of the others is lost for it."""

from __future__ import annotations

import contextlib

import structlog

from cloud_sync import sparing
from edge_agent.contract import topics
from tests.cloud.conftest import NewDevice
from tests.cloud.town import Town
from tests.harness.agent import wait_until


def said(processor: sparing.Sparing, event: str, device: str | None, times: int) -> list[dict[str, object]]:
    """What is left of so many lines."""
    left: list[dict[str, object]] = []
    for _ in range(times):
        with contextlib.suppress(structlog.DropEvent):
            line: dict[str, object] = {"event": event} if device is None else {"event": event, "device": device}
            left.append(dict(processor(None, "", line)))
    return left


def test_a_device_fills_a_window_alone_and_the_next_one_tells_how_much_was_unsaid() -> None:
    now_s = [0.0]
    processor = sparing.Sparing(lambda: now_s[0])
    assert len(said(processor, "refused", "a", 100)) == sparing.LINES_MAX
    assert len(said(processor, "refused", "b", 1)) == len(said(processor, "gone", "a", 1)) == 1
    assert len(said(processor, "started", None, 100)) == 100
    now_s[0] = sparing.WINDOW_S
    assert said(processor, "refused", "a", 2)[0]["unsaid"] == 100 - sparing.LINES_MAX
    assert all("unsaid" not in line for line in said(processor, "refused", "b", 2))


def test_a_flood_of_nonsense_is_no_flood_of_lines(town: Town, new_device: NewDevice) -> None:
    noisy = new_device(town, "noisy")
    before = town.metric('holdfast_messages_refused_total{reason="malformed"}')
    for _ in range(200):
        noisy.say(topics.STATE, b'{"must_understand":["' + b"x" * 4_000 + b'"]}')
    malformed = 'holdfast_messages_refused_total{reason="malformed"}'
    wait_until(lambda: town.metric(malformed) >= before + 200, "all are counted")
    lines = [line for line in town.log_tail(10_000).splitlines() if '"noisy"' in line]
    assert 0 < sum("message_refused" in line for line in lines) <= sparing.LINES_MAX
    assert max(map(len, lines)) < 1_000
