"""Ranges of sequences: they hold what was given and nothing else, and are found as a plain search finds them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fleet.ingest.sequences import containing, contains, gap_count, merge


@given(st.lists(st.lists(st.integers(1, 60), max_size=12), max_size=8))
def test_merged_ranges_hold_exactly_the_sequences_given_and_never_touch(batches: list[list[int]]) -> None:
    ranges: tuple[tuple[int, int], ...] = ()
    naive: set[int] = set()
    for batch in batches:
        ranges = merge(ranges, batch)
        naive |= set(batch)
    assert {n for first, last in ranges for n in range(first, last + 1)} == naive
    assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))
    assert all(contains(ranges, n) == (n in naive) for n in range(62))
    assert gap_count(ranges) == (max(naive) - min(naive) + 1 - len(naive) if naive else 0)


@given(st.sets(st.integers(1, 60)), st.lists(st.integers(0, 62), max_size=10))
def test_the_ranges_that_hold_sequences_are_those_a_plain_search_finds(
    stored: set[int], asked: list[int]
) -> None:
    ranges = merge([], stored)
    plain = [r for r in ranges if any(r[0] <= s <= r[1] for s in asked)]
    assert containing(ranges, asked) == plain
    assert [contains(ranges, s) for s in asked] == [s in stored for s in asked]
