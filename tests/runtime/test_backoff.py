"""Pauses between tries: doubling, bounded, spread, and finite after any number of failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.backoff import backoff_s

shares = st.floats(0, 1, exclude_max=True)


@given(
    attempt=st.integers(1, 10**6), first_s=st.floats(0.01, 10), maximum_s=st.floats(0.01, 600), draw=shares
)
def test_a_pause_is_within_its_bounds(attempt: int, first_s: float, maximum_s: float, draw: float) -> None:
    pause = backoff_s(attempt, first_s=first_s, maximum_s=maximum_s, draw=draw)
    assert min(first_s, maximum_s) / 2 <= pause <= maximum_s


def test_pauses_double_up_to_the_bound() -> None:
    assert [backoff_s(n, first_s=1, maximum_s=10, draw=0.5) for n in range(1, 7)] == [
        0.75,
        1.5,
        3,
        6,
        7.5,
        7.5,
    ]


def test_devices_that_failed_together_return_apart() -> None:
    assert backoff_s(9, first_s=1, maximum_s=10, draw=0.0) == 5
    assert backoff_s(9, first_s=1, maximum_s=10, draw=0.999) > 9.9
