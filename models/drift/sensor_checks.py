"""Two checks that need no statistics: is a sensor stuck, or far outside anything it ever said?

A sensor is stuck when it repeats one value exactly, window after window; it is out of range when it stays many
standard deviations from its reference mean. Both count windows in a row, so a single glitch is neither.

Invariants: counters are ≥ 0; a value at the standardiser's clip is never called stuck (it is out of range).
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


class SensorChecks:
    """Run lengths of F sensors.

    Args:
        mean: reference mean per sensor, shape (F,).
        std: reference standard deviation, shape (F,). A sensor that was constant then is never called stuck.
    """

    def __init__(self, *, mean: NDArray[np.floating], std: NDArray[np.floating]) -> None:
        self._mean = np.asarray(mean, np.float32)
        self._radius = (RANGE_STDS * np.asarray(std)).astype(np.float32)
        self._can_stick = np.asarray(std) > SMALLEST_STD
        self.reset()

    def reset(self) -> None:
        """Nothing seen yet."""
        self._previous = np.full(len(self._mean), np.nan, np.float32)
        self._runs = np.zeros((2, len(self._mean)), np.int16)

    @property
    def statistic(self) -> NDArray[np.int16]:
        """(2, F): windows in a row with the same value, and out of range."""
        return self._runs

    def update(self, rows: NDArray[np.float32]) -> None:
        """Look at k windows, shape (k, F), in order."""
        before = self._previous if len(rows) == 1 else rows[-2]
        self._previous, earlier = rows[-1].copy(), self._previous
        if not (self._is_same(rows[-1], before).any() or self._is_outside(rows[-1]).any()):
            # The common case, and most of the time saved: no run reaches the end of the block.
            self._runs[:] = 0
            return
        same = self._is_same(rows, np.vstack([earlier, rows[:-1]]))
        self._runs = _run_at_end(np.stack([same, self._is_outside(rows)]), self._runs)

    def _is_same(self, rows: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.asarray((rows == before) & self._can_stick & (np.abs(rows) < CLIP))

    def _is_outside(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.asarray(np.abs(rows - self._mean) > self._radius)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Named arrays to save."""
        return {"previous": self._previous, "runs": self._runs}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Continue from what `state` gave; raises ValueError for arrays of another shape."""
        if state["runs"].shape != self._runs.shape or state["previous"].shape != self._previous.shape:
            raise ValueError(f"sensor-check state has shape {state['runs'].shape}, want {self._runs.shape}")
        self._previous = np.array(state["previous"], np.float32)
        self._runs = np.array(state["runs"], np.int16)


def _run_at_end(flags: NDArray[np.bool_], run: NDArray[np.int16]) -> NDArray[np.int16]:
    """Length of the run of True that ends a block (2, k, F), joined to the run before it where it fills the block."""
    unbroken = flags[:, ::-1].argmin(axis=1)
    joined = np.where(flags.all(axis=1), run.astype(np.int32) + flags.shape[1], unbroken)
    return np.asarray(np.minimum(joined, _LARGEST_COUNT), np.int16)
