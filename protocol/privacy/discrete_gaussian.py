"""Discrete Gaussian noise: P(X = k) proportional to exp(-k²/2σ²) on the integers.

It is what a device adds to its rounded update. A sum of n such variables is not exactly discrete Gaussian; the gap is
counted where rounds are costed.

Source: Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", arXiv:2004.00010v5, Definition 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from decimal import Decimal, localcontext
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.errors import ParameterError
from protocol.privacy.integer_tables import TAIL_BITS, IntegerTable, tabulate
from protocol.privacy.randomness import RandomStream

__all__ = ["MAX_STD", "draw_discrete_gaussian", "gaussian_table"]

MAX_STD: Final = 2.0**15
"""Larger tables (2.5 MB at this σ) buy nothing: rounding then adds less than 1e-9 of the noise's variance."""

_FIXED_BITS: Final = 400
"""The error of a weight is a few thousand million units of the last bit at most: 2^-360."""
_TAIL_STDS: Final = math.sqrt(2 * (TAIL_BITS + 1) * math.log(2))
"""P(|X| > 21.1 σ) ≤ 2·exp(-21.1²/2) = 2^-320."""


def draw_discrete_gaussian(count: int, std: float, stream: RandomStream) -> NDArray[np.int64]:
    """`count` samples with parameter σ = `std` in lattice steps (its standard deviation, up to e^{-2π²σ²}), shape (count,).

    Raises:
        ParameterError: `std` is not in (0, MAX_STD].
    """
    return gaussian_table(std).draw(count, stream)


@functools.lru_cache(maxsize=4)  # a round uses one σ; a table costs up to 0.7 s
def gaussian_table(std: float) -> IntegerTable:
    """The sampling table for parameter σ = `std`; raises ParameterError as `draw_discrete_gaussian`."""
    if not 0.0 < std <= MAX_STD:
        raise ParameterError(
            f"the noise's lattice standard deviation must be in (0, {MAX_STD:g}], got {std:g}"
        )
    return tabulate(functools.partial(_weights, std))


def _weights(std: float) -> Iterator[int]:
    """e^{-k²/2σ²}·2^400 for k = 0, 1, ..."""
    # w_{k+1} = w_k·r_k and r_{k+1} = r_k·q with r_0 = e^{-1/2σ²}, q = e^{-1/σ²}: two integer products an entry.
    with localcontext() as context:
        context.prec = 150
        variance = Decimal(std) * Decimal(std)
        unit = Decimal(1 << _FIXED_BITS)
        ratio = int((-1 / (2 * variance)).exp() * unit)
        quotient = int((-1 / variance).exp() * unit)
    weight = 1 << _FIXED_BITS
    for _ in range(math.ceil(_TAIL_STDS * std) + 2):
        yield weight
        weight = weight * ratio >> _FIXED_BITS
        ratio = ratio * quotient >> _FIXED_BITS
