"""ADWIN: a window over a stream that is as long as the stream's mean has stayed the same.

::

    newest                                          oldest
    [1] [1] [1] [2] [2] [4] [4] [4] [8] [8] …       values per bucket: an exponential histogram, at most
     └────── recent ──────┘└───── earlier ──┘       five buckets a size: O(log n) numbers for n values

At every border the means on both sides are compared; where they differ by more than chance allows, the earlier side is
forgotten. No normal mean is needed, no window length, and no memory that grows with the stream.

Invariants: at most `5 · log₂ n + 5` buckets; mean and variance are those of the values in the window.

Source: A. Bifet and R. Gavaldà, "Learning from time-changing data with adaptive windowing", SDM 2007, Section 3 and the
variance bound of its Section 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["Adwin"]

_MOST_OF_A_SIZE: Final = 5
"""Buckets of one size before the two oldest become one: 5 compares at every fifth of the window or finer."""


@dataclass(kw_only=True)
class _Bucket:
    count: int
    total: float
    square: float  # sum of squared deviations from the bucket's own mean

    def join(self, other: _Bucket) -> None:
        """Take in another bucket (Chan, Golub, LeVeque 1979, Eq. 2.1)."""
        apart = other.total / other.count - self.total / self.count
        self.square += other.square + apart**2 * self.count * other.count / (self.count + other.count)
        self.count += other.count
        self.total += other.total


class Adwin:
    """One stream.

    Args:
        delta: chance of forgetting without a change at one comparison, in (0, 1).
        every: values between two comparisons.
        fewest: values that either side of a border must hold.

    >>> window = Adwin()
    >>> any(window.update(0.0) for _ in range(80))
    False
    >>> any(window.update(1.0) for _ in range(40))
    True
    """

    def __init__(self, *, delta: float = 0.002, every: int = 8, fewest: int = 5) -> None:
        if not (0 < delta < 1 and every >= 1 and fewest >= 1):
            raise ValueError(
                f"ADWIN needs delta in (0, 1), every ≥ 1 and fewest ≥ 1, got {delta}, {every}, {fewest}"
            )
        self._delta, self._every, self._fewest = delta, every, fewest
        self._buckets: list[_Bucket] = []  # newest first
        self._seen = 0

    @property
    def width(self) -> int:
        """Values in the window."""
        return sum(bucket.count for bucket in self._buckets)

    @property
    def mean(self) -> float:
        """Mean of the window; 0 without values."""
        return sum(bucket.total for bucket in self._buckets) / max(self.width, 1)

    def update(self, x: float) -> bool:
        """Add one value; True where the window was shortened, because the mean has changed."""
        self._buckets.insert(0, _Bucket(count=1, total=x, square=0.0))
        self._compress()
        self._seen += 1
        return self._seen % self._every == 0 and self._shorten()

    def _compress(self) -> None:
        size, first = 1, 0
        while True:
            last = first
            while last < len(self._buckets) and self._buckets[last].count == size:
                last += 1
            if last - first <= _MOST_OF_A_SIZE:
                return
            self._buckets[last - 2].join(self._buckets.pop(last - 1))
            size, first = 2 * size, last - 2

    def _shorten(self) -> bool:
        is_shorter = False
        while self._has_changed():
            self._buckets.pop()
            is_shorter = True
        return is_shorter

    def _has_changed(self) -> bool:
        if len(self._buckets) < 2:
            return False
        whole = _Bucket(count=self._buckets[0].count, total=self._buckets[0].total, square=0.0)
        for bucket in self._buckets[1:]:
            whole.join(bucket)
        variance = whole.square / whole.count
        chance = math.log(2.0 * math.log(whole.count) / self._delta) if whole.count > 2 else math.inf
        count, total = 0, 0.0
        for bucket in self._buckets[:-1]:
            count += bucket.count
            total += bucket.total
            rest = whole.count - count
            if count < self._fewest or rest < self._fewest:
                continue
            # Section 2.2: ε = √(2/m · σ² · ln(2/δ')) + 2/(3m) · ln(2/δ') with 1/m = 1/n₀ + 1/n₁ and δ' = δ / ln n
            per_m = 1.0 / count + 1.0 / rest
            allowed = math.sqrt(2.0 * per_m * variance * chance) + 2.0 / 3.0 * per_m * chance
            if abs(total / count - (whole.total - total) / rest) > allowed:
                return True
        return False
