"""Which bytes of a thing are still missing, as pure functions over ranges; buffers and asking are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[int, int]  # first byte, byte after the last


@dataclass(frozen=True, slots=True)
class Missing:
    """Ranges that nobody has asked for yet: in order, none empty, none touching another."""

    ranges: tuple[Range, ...] = ()

    @property
    def total_bytes(self) -> int:
        """How much is missing."""
        return sum(end - begin for begin, end in self.ranges)


def missing_all(total_bytes: int) -> Missing:
    """Nothing is there yet."""
    return Missing(((0, total_bytes),) if total_bytes else ())


def next_part(missing: Missing, part_bytes: int) -> tuple[int, int] | None:
    """Offset and length of what to ask for next: the lowest bytes first. None: nothing is left to ask for."""
    if not missing.ranges:
        return None
    begin, end = missing.ranges[0]
    return begin, min(part_bytes, end - begin)


def without(missing: Missing, offset: int, length: int) -> Missing:
    """These bytes were asked for, or are here."""
    left: list[Range] = []
    for begin, end in missing.ranges:
        left += [(begin, min(end, offset)), (max(begin, offset + length), end)]
    return Missing(tuple((begin, end) for begin, end in left if begin < end))


def with_again(missing: Missing, offset: int, length: int) -> Missing:
    """These bytes did not come: they are missing again."""
    if length <= 0:
        return missing
    merged: list[Range] = []
    for begin, end in sorted((*missing.ranges, (offset, offset + length))):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return Missing(tuple(merged))
