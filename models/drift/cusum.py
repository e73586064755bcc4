"""Two-sided CUSUM: has the MEAN of a sensor, or of the anomaly score, moved?

    up ← max(0, up + z - k)        down ← max(0, down - z - k)

z is in units of the reference's long-run standard deviation, so autocorrelated windows do not masquerade as drift,
and the allowance k grows with the uncertainty of a mean fitted on few windows. A block of windows is folded in closed
form: the end of the recursion is the last partial sum minus the smallest one below zero.

Invariants: sums are ≥ 0 and never above `ceiling`, so that recovery takes bounded time.

Source: E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cusum"]

WINSORISE_AT = 6.0
"""One wild window must not fill the sum alone; a true shift still fills it within a few."""


class Cusum:
    """Sums over C columns.

    Args:
        mean: reference mean per column, shape (C,).
        scale: long-run standard deviation per column, shape (C,), positive.
        allowance: k per column, shape (C,).
        ceiling: where sums stop growing, shape (C,).
    """

    def __init__(
        self,
        *,
        mean: NDArray[np.floating],
        scale: NDArray[np.floating],
        allowance: NDArray[np.floating],
        ceiling: NDArray[np.floating],
    ) -> None:
        self._factor = 1.0 / np.asarray(scale, np.float64)
        self._offset = -np.asarray(mean, np.float64) * self._factor
        self._allowance = np.asarray(allowance, np.float64)
        self._ceiling = np.asarray(ceiling, np.float64)
        self.reset()

    def reset(self) -> None:
        """Both sums back to zero."""
        self._sums = np.zeros((2, len(self._factor)))

    @property
    def statistic(self) -> NDArray[np.float64]:
        """(2, C): the sums upwards and downwards."""
        return self._sums

    def update(self, rows: NDArray[np.floating]) -> None:
        """Add k windows, shape (k, C), in order. The ceiling is applied at the end of the block."""
        z = rows * self._factor
        z += self._offset
        np.minimum(z, WINSORISE_AT, out=z)
        np.maximum(z, -WINSORISE_AT, out=z)
        steps = np.empty((2, *z.shape))
        np.subtract(z, self._allowance, out=steps[0])
        np.subtract(-self._allowance, z, out=steps[1])
        partial = steps.cumsum(axis=1, out=steps)
        partial += self._sums[:, None, :]
        lowest = np.minimum(partial.min(axis=1), 0.0)
        self._sums = np.minimum(partial[:, -1] - lowest, self._ceiling)

    def state(self) -> dict[str, NDArray[np.floating]]:
        """Named arrays to save."""
        return {"sums": self._sums}

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; raises ValueError for arrays of another shape."""
        if state["sums"].shape != self._sums.shape:
            raise ValueError(f"CUSUM state has shape {state['sums'].shape}, want {self._sums.shape}")
        self._sums = np.array(state["sums"], np.float64)
