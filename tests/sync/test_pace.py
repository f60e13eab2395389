"""How much is asked for at once: against links that are simulated by their rate and delay, without a clock."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest

from edge_agent.contract import limits
from edge_agent.sync import pace
from edge_agent.sync.pace import Pace

KIB = limits.KIB


@dataclass
class SimulatedLink:
    """Carries bytes_s bytes a second, one part after the other; each takes delay_s more, there and back."""

    bytes_s: float
    delay_s: float
    now_s: float = 100.0
    pace: Pace = field(default_factory=Pace)
    free_at_s: float = 100.0
    most_ahead_s: float = 0.0
    arriving: list[tuple[float, float, int]] = field(default_factory=list)  # when, asked when, length

    def run(self, seconds: float) -> float:
        """Download without end for so long; the rate that came out."""
        end_s, got_bytes = self.now_s + seconds, 0
        began_s = self.now_s
        while self.now_s < end_s:
            length = pace.part_bytes(self.pace)
            while pace.has_room(self.pace, length):
                self.pace = pace.with_asked(self.pace, length, self.now_s)
                self.free_at_s = max(self.free_at_s, self.now_s + self.delay_s) + length / self.bytes_s
                heapq.heappush(self.arriving, (self.free_at_s, self.now_s, length))
                length = pace.part_bytes(self.pace)
            self.pace = pace.with_held_up(self.pace)
            self.most_ahead_s = max(self.most_ahead_s, self.free_at_s - self.now_s - self.delay_s)
            at_s, asked_s, length = heapq.heappop(self.arriving)
            assert at_s - asked_s < max(pace.timeout_s(self.pace), 30.0)
            self.now_s = at_s
            self.pace = pace.with_arrived(self.pace, length, length, at_s - asked_s, at_s)
            got_bytes += length
        return got_bytes / (self.now_s - began_s)


@pytest.mark.parametrize("bytes_s", [16 * KIB, 64 * KIB, 512 * KIB, 8_000 * KIB])
@pytest.mark.parametrize("delay_s", [0.001, 0.05, 0.6])
def test_a_link_is_filled_and_little_waits_in_it(bytes_s: float, delay_s: float) -> None:
    link = SimulatedLink(bytes_s, delay_s)
    link.run(60.0)
    link.most_ahead_s = 0.0
    rate = link.run(60.0)
    carried = min(bytes_s, limits.MIB / (delay_s + 0.01))  # a window of 1 MiB cannot do more
    assert rate > 0.6 * carried  # the slowest link has one part in flight: what is urgent goes first there
    assert link.most_ahead_s < 2.5, "what is newly asked for waits so long behind what is in flight"


def test_a_link_that_becomes_slow_is_noticed() -> None:
    link = SimulatedLink(8_000 * KIB, 0.02)
    link.run(10.0)
    assert pace.part_bytes(link.pace) == limits.PART_BYTES_MAX
    link.bytes_s = 64 * KIB
    link.run(60.0)
    link.most_ahead_s = 0.0
    link.run(30.0)
    assert link.most_ahead_s < 2.5
    assert pace.part_bytes(link.pace) <= 16 * KIB


def test_small_questions_say_nothing_against_the_link() -> None:
    link = SimulatedLink(1_000 * KIB, 0.05)
    link.run(20.0)
    before = link.pace.rate_bytes_s
    now = pace.with_asked(Pace(rate_bytes_s=before), 256 * KIB, 0.0)
    now = pace.with_arrived(now, 256 * KIB, 700, 0.05, 0.05)  # a short file
    assert now.rate_bytes_s == before


def test_answers_that_do_not_come_make_everything_smaller_and_never_nothing() -> None:
    now = Pace(rate_bytes_s=4_000.0 * KIB)
    for _ in range(40):
        length = pace.part_bytes(now)
        now = pace.with_lost(pace.with_asked(now, length, 0.0), length)
    assert pace.part_bytes(now) == pace.PART_BYTES_MIN
    assert pace.has_room(now, pace.PART_BYTES_MIN)
    assert now.in_flight_bytes == 0


def test_a_new_connection_begins_small() -> None:
    assert pace.window_bytes(pace.after_cut(Pace(rate_bytes_s=9e9))) == 64 * KIB
    assert pace.after_cut(Pace(rate_bytes_s=5.0 * KIB)).rate_bytes_s == 5.0 * KIB


def test_an_answer_is_waited_for_as_long_as_the_message_lives_at_most() -> None:
    slow = Pace(rate_bytes_s=1.0 * KIB, in_flight_bytes=256 * KIB)
    assert pace.timeout_s(slow) == limits.GET_EXPIRY_S
    assert pace.timeout_s(Pace()) == pace.TIMEOUT_S_MIN
