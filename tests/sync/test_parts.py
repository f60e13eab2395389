"""Which bytes are asked for next: whatever comes, is lost or comes short, each byte is asked for until it is there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sync.parts import Missing, missing_all, next_part, with_again, without


@given(
    total=st.integers(0, 5_000),
    part_bytes=st.integers(1, 700),
    fates=st.lists(st.tuples(st.sampled_from(["comes", "is lost", "comes short"]), st.integers(0, 3)), max_size=60),
)
def test_every_byte_comes_in_the_end_and_none_is_asked_for_twice_at_once(
    total: int, part_bytes: int, fates: list[tuple[str, int]]
) -> None:
    missing, asked, here = missing_all(total), list[tuple[int, int]](), set[int]()
    for fate, which in [*fates, *[("comes", 0)] * (2 * total + 2)]:
        part = next_part(missing, part_bytes)
        if part is not None:
            asked.append(part)
            missing = without(missing, *part)
        if not asked:
            break
        offset, length = asked.pop(which % len(asked))
        came = {"comes": length, "is lost": 0, "comes short": length // 2}[fate]
        new = set(range(offset, offset + came))
        assert not new & here, "a byte came twice"
        here |= new
        missing = with_again(missing, offset + came, length - came)
        assert missing.total_bytes + sum(n for _, n in asked) + len(here) == total
        assert all(0 <= begin < end <= total for begin, end in missing.ranges)
        assert all(one[1] < other[0] for one, other in zip(missing.ranges, missing.ranges[1:], strict=False))
    assert here == set(range(total))


def test_the_lowest_bytes_come_first() -> None:
    missing = Missing(((10, 12), (20, 100)))
    assert next_part(missing, 50) == (10, 2)
    assert next_part(without(missing, 10, 2), 50) == (20, 50)
    assert next_part(Missing(), 50) is None


def test_neighbours_become_one() -> None:
    assert with_again(Missing(((0, 10), (20, 30))), 10, 10) == Missing(((0, 30),))
