"""Which sequence numbers of a boot are stored, as ranges: a pure rule over integers.

Ranges are inclusive, sorted, and neither overlap nor touch; so a boot without loss is one range however long it
lasts, and each hole between two ranges is a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["contains", "gap_count", "merge"]

Range = tuple[int, int]


def contains(ranges: Sequence[Range], sequence: int) -> bool:
    """Whether `sequence` lies in one of the ranges."""
    return any(first <= sequence <= last for first, last in ranges)


def merge(ranges: Sequence[Range], sequences: Iterable[int]) -> tuple[Range, ...]:
    """The ranges with these sequences added.

    >>> merge([(1, 3)], [4, 6])
    ((1, 4), (6, 6))
    """
    merged: list[list[int]] = []
    for first, last in sorted([*ranges, *((s, s) for s in sequences)]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return tuple((first, last) for first, last in merged)


def gap_count(ranges: Sequence[Range]) -> int:
    """How many sequences between the first and the last are missing."""
    if not ranges:
        return 0
    return ranges[-1][1] - ranges[0][0] + 1 - sum(last - first + 1 for first, last in ranges)
