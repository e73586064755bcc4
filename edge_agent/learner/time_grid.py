"""Replies leave at points of a grid, so that the time an answer took says next to nothing about what it was made of.

    computed in 0.13 s ─► leaves at 0.025 s · 1.2^k, the first point that all of the kind's last answers would have kept

The points are set by how long this machine takes for this kind of question, a little ahead: windows that differ change that by
far less than the distance between two points (training takes the same steps whatever the data do, `local_update`). What remains: an answer
within the few milliseconds before a point may fall on either side. A machine that was held up once answers as late for the next few.

Cost: on average a tenth of the time that answers take, a fourth at most, and never less than `FIRST_S`.

Source: D. Askarov, D. Zhang, A. Myers, "Predictive black-box mitigation of timing channels", CCS 2010, for growing points.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["FIRST_S", "TimeGrid"]

FIRST_S: Final = 0.025
"""Small models answer within it, all of them alike."""

_RATIO: Final = 1.2
_MARGIN: Final = 1.04
"""An answer as late as this before a point waits for the next; with the ratio, a fourth of an answer's time at most."""
_REMEMBERED: Final = 8


class TimeGrid:
    """Holds replies back.

    Args:
        clock: monotonic seconds.
        sleep: seconds; may return early where the process is to end.
    """

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], object]) -> None:
        self._clock, self._sleep = clock, sleep
        self._took_s: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    @contextmanager
    def on_time(self, kind: str) -> Iterator[None]:
        """What is done within ends at a point of the grid of its `kind`, however it ends."""
        started = self._clock()
        try:
            yield
        finally:
            took = self._took_s[kind]
            took.append(self._clock() - started)
            left = started + point_after(max(took) * _MARGIN) - self._clock()
            if left > 0:
                self._sleep(left)


def point_after(seconds: float) -> float:
    """The first point of the grid at or after so many seconds.

    >>> [round(point_after(s), 3) for s in (0.0, 0.1, 0.11, 1.0)]
    [0.025, 0.107, 0.129, 1.15]
    """
    point = FIRST_S
    while point < seconds:
        point *= _RATIO
    return point
