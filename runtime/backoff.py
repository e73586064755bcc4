"""How long to wait before trying again: doubling pauses with jitter, so that a fleet does not return all at once.

Not a loop: who waits, and what ends the waiting, is the caller's.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015 ("equal jitter").
"""

from __future__ import annotations

from typing import Final

__all__ = ["backoff_s"]

DOUBLINGS: Final = 32
"""More make no difference to any sensible bound, and 2.0 ** 2000 would overflow after a night without a network."""


def backoff_s(attempt: int, *, first_s: float, maximum_s: float, draw: float) -> float:
    """How long to pause after failed attempt number `attempt`.

    Args:
        attempt: failed attempts in a row, ≥ 1.
        first_s: upper bound of the first pause, seconds; doubles with each further attempt.
        maximum_s: upper bound of every pause, seconds.
        draw: uniform in [0, 1); spreads devices that failed at the same moment.

    Returns:
        Seconds between half the bound and the bound.

    >>> [backoff_s(n, first_s=0.5, maximum_s=5.0, draw=0.0) for n in (1, 2, 3, 100)]
    [0.25, 0.5, 1.0, 2.5]
    """
    bound = min(maximum_s, first_s * 2.0 ** min(attempt - 1, DOUBLINGS))
    return bound * (0.5 + 0.5 * draw)
