"""Three checks that need no statistics: is a sensor stuck, far outside anything it ever said, or silent?

A sensor is stuck when it repeats one value exactly, window after window; it is out of range when it stays many
standard deviations from its reference mean; it is missing when it delivers no finite number. All count windows in a
row, so a single glitch is none of them.

Invariants: counters are ≥ 0; a value at the standardiser's clip is never called stuck (it is out of range). Runs of
missing values are not saved: after a restart they are counted anew, which takes a few windows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.drift.reference import SMALLEST_STD
from models.standardiser import CLIP

__all__ = ["SensorChecks"]

RANGE_STDS = 8.0
"""Outside ±8 reference standard deviations no healthy operating point is expected."""

_LARGEST_COUNT = 30_000

Float = NDArray[np.float32]


class SensorChecks:
    """Run lengths of F sensors.

    Args:
        mean: reference mean per sensor, shape (F,).
        std: reference standard deviation, shape (F,). A sensor that was constant then is never called stuck.

    Attributes:
        stuck: windows in a row with the value before, (F,).
        outside: windows in a row out of range, (F,).
        missing: windows in a row without a value, (F,).
    """

    def __init__(self, *, mean: NDArray[np.floating], std: NDArray[np.floating]) -> None:
        self._mean = np.asarray(mean, np.float32)
        self._radius = (RANGE_STDS * np.asarray(std)).astype(np.float32)
        self._can_stick = np.asarray(std) > SMALLEST_STD
        self.reset()

    def reset(self) -> None:
        """Nothing seen yet."""
        self._previous = np.full(len(self._mean), np.nan, np.float32)
        self.stuck = np.zeros(len(self._mean), np.int16)
        self.outside = np.zeros(len(self._mean), np.int16)
        self.missing = np.zeros(len(self._mean), np.int16)
        self._is_any_stuck = False

    def watch_gaps(self, gaps: NDArray[np.bool_]) -> None:
        """Look for values that are not there in k windows, shape (k, F), in order."""
        self.missing = _run_at_end(gaps, self.missing)

    def watch_repeats(self, rows: Float) -> bool:
        """Look for values that stick in k windows, shape (k, F), in order; has any run changed?"""
        before = self._previous if len(rows) == 1 else rows[-2]
        was_any_stuck = self._is_any_stuck
        if np.count_nonzero(rows[-1] == before):
            same = self._is_same(rows, np.vstack([self._previous, rows[:-1]]))
            self.stuck = _run_at_end(same, self.stuck)
            self._is_any_stuck = True
        elif self._is_any_stuck:
            self.stuck[:] = 0
            self._is_any_stuck = False
        # The common case ends here after one comparison: no run reaches the end of the block.
        self._previous[:] = rows[-1]
        return was_any_stuck or self._is_any_stuck

    def watch_range(self, rows: Float) -> None:
        """Look for values that stay out of range in k windows, shape (k, F), in order."""
        if (np.abs(rows[-1] - self._mean) > self._radius).any():
            self.outside = _run_at_end(np.abs(rows - self._mean) > self._radius, self.outside)
        else:
            self.outside[:] = 0

    def _is_same(self, rows: Float, before: Float) -> NDArray[np.bool_]:
        return np.asarray((rows == before) & self._can_stick & (np.abs(rows) < CLIP))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Named arrays to save."""
        return {"previous": self._previous, "stuck": self.stuck, "outside": self.outside}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Continue from what `state` gave; `models.drift.state_file` has compared the shapes."""
        self._previous = np.array(state["previous"], np.float32)
        self.stuck = np.array(state["stuck"], np.int16)
        self.outside = np.array(state["outside"], np.int16)
        self.missing = np.zeros(len(self._mean), np.int16)
        self._is_any_stuck = bool(self.stuck.any())


def _run_at_end(flags: NDArray[np.bool_], run: NDArray[np.int16]) -> NDArray[np.int16]:
    """Length of the run of True that ends a block (k, F), joined to the run before it where it fills the block."""
    unbroken = flags[::-1].argmin(axis=0)
    joined = np.where(flags.all(axis=0), run.astype(np.int32) + len(flags), unbroken)
    return np.asarray(np.minimum(joined, _LARGEST_COUNT), np.int16)
