"""Moments of windows: what devices add up so that a linear detector follows in closed form.

Counts, sums and outer products of standardised windows. They hold no threshold and no detector: `models.linear_baseline` writes
the detectors that follow from them into a network's own layout.

Edge-safe: NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError, LayoutError

__all__ = ["Moments"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What adds up over devices: windows n, their sum (F,) and the sum of their outer products (F, F).

    Raises:
        LayoutError: shapes that do not fit each other.
        InputError: n negative, or a value that is not finite.
    """

    n: float
    sum: Floats
    outer: Floats

    def __post_init__(self) -> None:
        if self.sum.ndim != 1 or self.outer.shape != (len(self.sum), len(self.sum)):
            raise LayoutError(
                f"moments of F features have a sum (F,) and outer products (F, F), got {self.sum.shape} and {self.outer.shape}"
            )
        if not (self.n >= 0 and np.isfinite(self.sum).all() and np.isfinite(self.outer).all()):
            raise InputError(f"moments must be finite and count at least 0 windows, got n = {self.n}")

    @classmethod
    def of(cls, x: NDArray[np.floating]) -> Moments:
        """Moments of standardised windows x (n, F), n ≥ 1; raises InputError for another rank or no window."""
        if x.ndim != 2 or not len(x):
            raise InputError(f"moments are taken of windows of shape (≥1, F), got {x.shape}")
        rows = np.asarray(x, np.float64)
        return cls(n=float(len(rows)), sum=rows.sum(axis=0), outer=rows.T @ rows)

    @classmethod
    def zero(cls, features: int) -> Moments:
        """What a sum starts from."""
        return cls(n=0.0, sum=np.zeros(features), outer=np.zeros((features, features)))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of windows together; raises LayoutError for another number of features."""
        if self.sum.shape != other.sum.shape:
            raise LayoutError(
                f"moments add up over the same features, got {len(self.sum)} and {len(other.sum)}"
            )
        return Moments(n=self.n + other.n, sum=self.sum + other.sum, outer=self.outer + other.outer)

    def centred(self) -> Moments:
        """The same windows moved to mean zero, so that a sum of them holds what varies within devices, not between."""
        n = max(self.n, 1.0)
        return Moments(
            n=self.n, sum=np.zeros_like(self.sum), outer=self.outer - np.outer(self.sum, self.sum) / n
        )

    @property
    def mean(self) -> Floats:
        """Mean window (F,); raises InputError for no window."""
        self._require_windows()
        return self.sum / self.n

    @property
    def covariance(self) -> Floats:
        """Covariance (F, F), divided by n; raises InputError for no window."""
        self._require_windows()
        mean = self.sum / self.n
        matrix = self.outer / self.n - np.outer(mean, mean)
        return np.asarray((matrix + matrix.T) / 2)

    def _require_windows(self) -> None:
        if not self.n > 0:
            raise InputError("the moments of no window have no mean; ask the devices again")
