"""What int8 makes of a weight, in floats: the rounding that export will do, for those who must foresee it.

Bias correction asks it what an int8 graph will compute. It is not the quantizer, whose integers it reproduces: symmetric, 127
steps to the largest magnitude, no zero point.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877v1, section 2.1; LiteRT's 8-bit quantisation specification for the symmetric weights.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["WeightScales", "round_weight"]

WeightScales = Literal["per-tensor", "per-channel"]
"""How many scales a weight has: one, or one for each output channel."""


def round_weight(weight: NDArray[np.floating], *, channel_axis: int | None) -> NDArray[np.float64]:
    """The weight as int8 holds it, same shape; one scale for each index of `channel_axis`, or one for all (None).

    >>> round_weight(np.array([[127.0, 1.27], [0.4, 0.004]]), channel_axis=None)
    array([[127.,   1.],
           [  0.,   0.]])
    >>> round_weight(np.array([[127.0, 1.27], [0.4, 0.004]]), channel_axis=1)
    array([[127.  ,   1.27],
           [  0.  ,   0.  ]])
    """
    axes = None if channel_axis is None else tuple(a for a in range(weight.ndim) if a != channel_axis)
    largest = np.abs(weight.astype(np.float64)).max(axis=axes, keepdims=True)
    step = np.where(largest > 0, largest, 1.0) / 127.0
    return np.asarray(np.rint(weight / step) * step)
