"""Two checks that need no statistics: is a sensor stuck, or silent?

A sensor is stuck when it repeats one value exactly, window after window; it is missing when it delivers no finite number.
Both count windows in a row, so a single glitch is neither. What lies far outside anything a sensor ever said needs no check
of its own: it moves the charts of the mean as far as one window can.

Invariants: counters are ≥ 0; a value at the standardiser's clip is never called stuck (it has moved). Runs of
missing values are not saved: after a restart they are counted anew, which takes a few windows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.drift.bins import SMALLEST_STD
from models.standardiser import CLIP

__all__ = ["SensorChecks"]

_LARGEST_COUNT = 30_000

Float = NDArray[np.float32]


class SensorChecks:
    """Run lengths of F sensors.

    Args:
        std: reference standard deviation, shape (F,). A sensor that was constant then is never called stuck.

    Attributes:
        stuck: windows in a row with the value before, (F,).
        missing: windows in a row without a value, (F,).
        previous: the last window's values, (F,).
    """

    def __init__(self, std: NDArray[np.floating]) -> None:
        self._can_stick = np.asarray(std) > SMALLEST_STD
        self.reset()

    def reset(self) -> None:
        """Nothing seen yet."""
        self.previous = np.full(len(self._can_stick), np.nan, np.float32)
        self.stuck = np.zeros(len(self._can_stick), np.int16)
        self.missing = np.zeros(len(self._can_stick), np.int16)
        self._is_any_stuck = False

    def watch_gaps(self, gaps: NDArray[np.bool_]) -> None:
        """Look for values that are not there in k windows, shape (k, F), in order."""
        self.missing = _run_at_end(gaps, self.missing)

    def watch_repeats(self, rows: Float) -> bool:
        """Look for values that stick in k windows, shape (k, F), in order; has any run changed?"""
        before = self.previous if len(rows) == 1 else rows[-2]
        was_any_stuck = self._is_any_stuck
        if np.count_nonzero(rows[-1] == before):
            same = self._is_same(rows, np.vstack([self.previous, rows[:-1]]))
            self.stuck = _run_at_end(same, self.stuck)
            self._is_any_stuck = True
        elif self._is_any_stuck:
            self.stuck[:] = 0
            self._is_any_stuck = False
        # The common case ends here after one comparison: no run reaches the end of the block.
        self.previous[:] = rows[-1]
        return was_any_stuck or self._is_any_stuck

    def _is_same(self, rows: Float, before: Float) -> NDArray[np.bool_]:
        return np.asarray((rows == before) & self._can_stick & (np.abs(rows) < CLIP))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Named arrays to save."""
        return {"previous": self.previous, "stuck": self.stuck}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Continue from what `state` gave; `models.drift.state_file` has compared the shapes."""
        self.previous = np.array(state["previous"], np.float32)
        self.stuck = np.array(state["stuck"], np.int16)
        self.missing = np.zeros(len(self._can_stick), np.int16)
        self._is_any_stuck = bool(self.stuck.any())


def _run_at_end(flags: NDArray[np.bool_], run: NDArray[np.int16]) -> NDArray[np.int16]:
    """Length of the run of True that ends a block (k, F), joined to the run before it where it fills the block."""
    unbroken = flags[::-1].argmin(axis=0)
    joined = np.where(flags.all(axis=0), run.astype(np.int32) + len(flags), unbroken)
    return np.asarray(np.minimum(joined, _LARGEST_COUNT), np.int16)
