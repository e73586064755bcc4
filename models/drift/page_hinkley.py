"""The Page–Hinkley test: has the mean of a stream risen above what it was so far?

    m ← f·m + (x - mean so far - δ)        alarm when m - min(m) > λ        afterwards: start anew

The cheapest of all detectors for a stream whose normal mean nobody knows beforehand: five numbers of state. It is slow
after a long quiet time, for the mean it compares with contains the change more and more.

Sources: D. V. Hinkley, "Inference about the change-point from cumulative sum tests", Biometrika 58 (1971); the
forgetting factor as in river's implementation, which the tests use as an oracle.
"""

from __future__ import annotations

__all__ = ["PageHinkley"]


class PageHinkley:
    """One stream.

    Args:
        limit: λ, in the stream's unit times windows, positive.
        tolerance: δ, rises smaller than this are no change.
        fewest: values before the first alarm.
        keep: f in (0, 1], how much of the sum is kept with each value.

    >>> test = PageHinkley(limit=3.0)
    >>> stream = [0.0] * 50 + [1.0] * 10
    >>> [i for i, x in enumerate(stream) if test.update(x)]
    [53]
    """

    def __init__(
        self, *, limit: float = 8.0, tolerance: float = 0.05, fewest: int = 30, keep: float = 0.9999
    ) -> None:
        if not (limit > 0 and tolerance >= 0 and fewest >= 1 and 0 < keep <= 1):
            raise ValueError(
                f"Page–Hinkley needs limit > 0, tolerance ≥ 0, fewest ≥ 1 and keep in (0, 1], "
                f"got {limit}, {tolerance}, {fewest}, {keep}"
            )
        self._limit, self._tolerance, self._fewest, self._keep = limit, tolerance, fewest, keep
        self._start()

    def _start(self) -> None:
        self._count, self._mean, self._sum, self._lowest = 0, 0.0, 0.0, float("inf")

    @property
    def statistic(self) -> float:
        """How far the sum has risen above its lowest; over the limit is an alarm."""
        return self._sum - self._lowest if self._count else 0.0

    def update(self, x: float) -> bool:
        """Add one value; True where it raises the alarm, and then the test begins anew with the next."""
        self._count += 1
        self._mean += (x - self._mean) / self._count
        self._sum = self._keep * self._sum + x - self._mean - self._tolerance
        self._lowest = min(self._lowest, self._sum)
        if self._count < self._fewest or self.statistic <= self._limit:
            return False
        self._start()
        return True
