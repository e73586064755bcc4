"""Which sequence numbers of a boot are stored, as ranges: a pure rule over integers.

Ranges are inclusive, sorted, and neither overlap nor touch; so a boot without loss is one range however long it
lasts, and each hole between two ranges is a gap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from operator import itemgetter

__all__ = ["containing", "contains", "gap_count", "merge"]

Range = tuple[int, int]
first_of = itemgetter(0)


def contains(ranges: Sequence[Range], sequence: int) -> bool:
    """Whether `sequence` lies in one of the ranges."""
    at = bisect_right(ranges, sequence, key=first_of) - 1
    return at >= 0 and sequence <= ranges[at][1]


def containing(ranges: Sequence[Range], sequences: Iterable[int]) -> list[Range]:
    """The ranges in which these sequences lie, sorted.

    By bisection: a device that counts in twos has a range for each message, and must not make ours quadratic.

    >>> containing([(1, 3), (5, 9)], [2, 4, 3])
    [(1, 3)]
    """
    found = set()
    for sequence in sequences:
        at = bisect_right(ranges, sequence, key=first_of) - 1
        if at >= 0 and sequence <= ranges[at][1]:
            found.add(ranges[at])
    return sorted(found)


def merge(ranges: Sequence[Range], sequences: Iterable[int]) -> tuple[Range, ...]:
    """The ranges with these sequences added.

    >>> merge([(1, 3)], [4, 6])
    ((1, 4), (6, 6))
    """
    new = sequences if isinstance(sequences, Collection) else list(sequences)
    if len(ranges) == 1 and len(new) == 1:  # nearly always: a boot without a hole says its next word
        (first, last), (sequence,) = ranges[0], new
        if first <= sequence <= last + 1:
            return ((first, max(last, sequence)),)
    merged: list[list[int]] = []
    for first, last in sorted([*ranges, *((s, s) for s in new)]):
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
