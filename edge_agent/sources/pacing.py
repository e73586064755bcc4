"""When the next window is due: machine time against wall time.

A window is taken every `period_s` machine seconds; `speed` machine seconds pass per wall second. The first window is
due at once. A reader that falls behind by more than a few windows is given a new schedule, so that machine time slows
down instead of windows piling up.
"""

from __future__ import annotations

import math

__all__ = ["Pace"]

MOST_WINDOWS_BEHIND = 5.0
"""How many windows a busy reader may catch up in one go."""


class Pace:
    """Counts windows and says when the next is due; knows no clock of its own.

    Args:
        period_s: machine seconds between windows, > 0.
        speed: machine seconds per wall second, > 0.
    """

    def __init__(self, *, period_s: float, speed: float) -> None:
        if not (period_s > 0 and speed > 0 and math.isfinite(period_s) and math.isfinite(speed)):
            raise ValueError(f"pace needs period_s > 0 and speed > 0, got {period_s} and {speed}")
        self._wall_period_s = period_s / speed
        self._next_s: float | None = None
        self._ended = False

    @property
    def next_due_s(self) -> float:
        """Wall time of the next window; minus infinity before the first, infinity after `end`."""
        if self._ended:
            return math.inf
        return -math.inf if self._next_s is None else self._next_s

    def take(self, now: float) -> bool:
        """Is a window due at `now`? If so it is counted as taken."""
        if self._ended:
            return False
        due = now if self._next_s is None else self._next_s
        if now < due:
            return False
        if now - due > MOST_WINDOWS_BEHIND * self._wall_period_s:
            due = now
        self._next_s = due + self._wall_period_s
        return True

    def end(self) -> None:
        """No further window is due, ever."""
        self._ended = True
