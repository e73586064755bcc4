"""What a count says of the rate behind it: the exact interval of a Poisson mean, without SciPy.

    low   the mean at which so many or more would be seen in 2.5 % of cases      0 for a count of 0
    high  the mean at which so many or fewer would be seen in 2.5 % of cases     3.69 for a count of 0

Both by bisection on the sum of the probabilities, which falls as the mean grows.

Source: F. Garwood, "Fiducial Limits for the Poisson Distribution", Biometrika 28 (1936).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

__all__ = ["poisson_interval"]

_TAIL: Final = 0.025
_BISECTIONS: Final = 60


@lru_cache(maxsize=64)
def poisson_interval(count: int) -> tuple[float, float]:
    """The 95 % interval (low, high) of the mean number of events where `count` ≥ 0 were seen.

    >>> [round(end, 3) for end in poisson_interval(3)]
    [0.619, 8.767]
    """
    low = _mean_at(count - 1, 1 - _TAIL) if count > 0 else 0.0
    return low, _mean_at(count, _TAIL)


def _mean_at(most: int, probability: float) -> float:
    """The mean at which `most` events or fewer are seen with this probability."""
    numbers = np.arange(most + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(numbers[1:]))])
    low, high = 0.0, most + 10.0 * (most + 1) ** 0.5
    for _ in range(_BISECTIONS):
        mean = (low + high) / 2
        is_left = float(np.exp(numbers * np.log(mean) - mean - log_factorials).sum()) > probability
        low, high = (mean, high) if is_left else (low, mean)
    return float(low + high) / 2
