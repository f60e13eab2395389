"""How much may be asked for at once: part size and bytes in flight, from the measured rate; pure. `requests` asks.

Bytes in flight are bounded to about a second of the rate, so that a rollback never waits long behind a download.
Numbers end in their unit; time comes in as monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.contract import limits

KIB = limits.KIB
PART_BYTES_MIN = 16 * KIB  # smaller ones are mostly overhead
RATE_BYTES_S_FIRST = 64.0 * KIB  # nothing is measured yet: 512 kbit/s
RATE_BYTES_S_MIN = 1.0 * KIB
WINDOW_BYTES_MAX = limits.MIB  # of this process's memory; also what a cut of the link costs at most
WINDOW_S = 1.0
RTT_FACTOR = 1.25  # a link that is far away needs more than a second in flight, or it is never filled
PART_S = 0.25  # a part takes about so long
SAMPLE_S = 0.2
WEIGHT_NEW = 0.5
TIMEOUT_S_MIN = 5.0
TIMEOUT_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of the link. filled: the window was full in this sample."""

    rate_bytes_s: float = RATE_BYTES_S_FIRST
    rtt_min_s: float = 0.0
    in_flight_bytes: int = 0
    began_s: float = 0.0
    sample_bytes: int = 0
    filled: bool = False


def window_bytes(pace: Pace) -> int:
    """How many bytes may be in flight."""
    seconds = max(WINDOW_S, RTT_FACTOR * pace.rtt_min_s)
    return int(min(WINDOW_BYTES_MAX, max(PART_BYTES_MIN, pace.rate_bytes_s * seconds)))


def part_bytes(pace: Pace) -> int:
    """How long a part should be: a power of two between PART_BYTES_MIN and the contract's bound."""
    wanted = min(pace.rate_bytes_s * PART_S, window_bytes(pace) / 4)
    size = PART_BYTES_MIN
    while size * 2 <= min(wanted, limits.PART_BYTES_MAX):
        size *= 2
    return size


def has_room(pace: Pace, length: int) -> bool:
    """Whether a part of this length may be asked for now. One may always be in flight."""
    return pace.in_flight_bytes == 0 or pace.in_flight_bytes + length <= window_bytes(pace)


def timeout_s(pace: Pace) -> float:
    """How long an answer is waited for; nobody answers after the message has expired."""
    expected_s = pace.in_flight_bytes / pace.rate_bytes_s
    return min(float(limits.GET_EXPIRY_S), max(TIMEOUT_S_MIN, TIMEOUT_FACTOR * (expected_s + pace.rtt_min_s)))


def with_asked(pace: Pace, length: int, now_s: float) -> Pace:
    """A part was asked for; the clock of a sample begins when nothing was in flight."""
    if pace.in_flight_bytes == 0:
        pace = replace(pace, began_s=now_s, sample_bytes=0, filled=False)
    return replace(pace, in_flight_bytes=pace.in_flight_bytes + length)


def with_held_up(pace: Pace) -> Pace:
    """Somebody waits for room: from now on the sample tells what the link carries, not what was asked of it."""
    return replace(pace, filled=True)


def with_arrived(pace: Pace, length: int, got_bytes: int, rtt_s: float, now_s: float) -> Pace:
    """The answer to a part of this length came, rtt_s after it was asked for."""
    rtt_min_s = min(pace.rtt_min_s, rtt_s) if pace.rtt_min_s else rtt_s
    pace = replace(
        pace,
        rtt_min_s=rtt_min_s,
        in_flight_bytes=max(0, pace.in_flight_bytes - length),
        sample_bytes=pace.sample_bytes + got_bytes,
    )
    took_s = now_s - pace.began_s
    if took_s < SAMPLE_S and pace.in_flight_bytes:
        return pace
    measured = pace.sample_bytes / max(took_s, 0.001)
    rate = pace.rate_bytes_s
    if pace.filled or measured > rate:  # else little was asked for, which says nothing against the link
        rate = max(RATE_BYTES_S_MIN, (1 - WEIGHT_NEW) * rate + WEIGHT_NEW * measured)
    return replace(pace, rate_bytes_s=rate, began_s=now_s, sample_bytes=0, filled=False)


def with_lost(pace: Pace, length: int) -> Pace:
    """No answer came in time: the link, the broker or the coordinator is busier than we think."""
    rate = max(RATE_BYTES_S_MIN, pace.rate_bytes_s / 2)
    return replace(pace, in_flight_bytes=max(0, pace.in_flight_bytes - length), rate_bytes_s=rate, filled=False)


def with_given_up(pace: Pace, length: int) -> Pace:
    """The question is not waited for any more (a cut, an end): nothing was learnt from it."""
    return replace(pace, in_flight_bytes=max(0, pace.in_flight_bytes - length))


def after_cut(pace: Pace) -> Pace:
    """A new connection may go another way: what was measured is a guess, good for a beginning at most."""
    return Pace(rate_bytes_s=min(pace.rate_bytes_s, RATE_BYTES_S_FIRST))
