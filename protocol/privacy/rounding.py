"""Round to integers at random, without bias, but never to a vector longer than the noise was planned for.

Plain stochastic rounding can lengthen a vector by sqrt(d) in the worst case; noise for that worst case would be far
too much. So a rounding that came out too long is thrown away and drawn anew: a bounded norm for certain, at the price
of a bias that vanishes with the scale. The bound holds by construction, whatever the update.

Source: Kairouz, Liu, Steinke, arXiv:2102.06387v4, section 4.1 and Algorithm 1 (conditional randomized rounding).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.errors import UpdateError
from protocol.privacy.randomness import RandomStream

__all__ = ["BETA", "norm_bound", "round_within"]

BETA: Final = math.exp(-0.5)
"""Probability, at most, that one rounding is thrown away."""

_MAX_ATTEMPTS: Final = 400
"""Beta^400 = 1e-87: reached only by a vector that was not clipped."""
_FLOAT_MARGIN: Final = 1e-9
"""Relative error of a float64 sum of squares, generously: d·2^-53 for d up to four million."""


def norm_bound(clip_scaled: float, dimension: int) -> float:
    """Δ2: the L2 norm that a rounding of any vector of norm ≤ `clip_scaled` keeps with probability ≥ 1 - BETA.

    `clip_scaled` is c·s in lattice steps, `dimension` the length that is rounded.
    """
    root_d = math.sqrt(dimension)
    # Eq. (2) of arXiv:2102.06387v4 with β = e^-1/2, for which sqrt(2 ln(1/β)) = 1.
    deviation = math.sqrt(2.0 * math.log(1.0 / BETA)) * (clip_scaled + root_d / 2.0)
    return min(clip_scaled + root_d, math.sqrt(clip_scaled**2 + dimension / 4.0 + deviation))


def round_within(x: NDArray[np.float64], limit: float, stream: RandomStream) -> NDArray[np.int64]:
    """Round x, shape (d,), in lattice steps, each entry up or down at random so that it keeps its mean; |result| ≤ limit.

    Raises:
        UpdateError: no rounding stays within `limit`; x was not clipped to the norm that `limit` was made for.
    """
    floor = np.floor(x)
    fraction = x - floor
    allowed = limit * limit * (1.0 - _FLOAT_MARGIN)
    for _ in range(_MAX_ATTEMPTS):
        rounded = floor + (stream.fractions(x.size) < fraction)
        if float(rounded @ rounded) <= allowed:
            return rounded.astype(np.int64)
    raise UpdateError(
        f"no rounding of a vector of norm {float(np.linalg.norm(x)):.6g} stays within {limit:.6g}: clip it first"
    )
