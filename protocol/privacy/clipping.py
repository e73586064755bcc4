"""Bound what one device can contribute: scale its update into an L2 ball.

Source: McMahan et al., "Learning Differentially Private Recurrent Language Models", arXiv:1710.06963v3, section 2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.errors import ParameterError, UpdateError

__all__ = ["SLACK", "clip_to_ball"]

SLACK: Final = 1e-6
"""Relative distance kept from the ball's surface, so that float rounding downstream never crosses it."""


def clip_to_ball(update: NDArray[np.floating], clip: float) -> NDArray[np.float64]:
    """The update x·min(1, c(1 - 1e-6)/|x|), flattened to shape (d,), float64. A short update is returned unchanged.

    Raises:
        UpdateError: an entry is NaN or infinite; training went wrong on this device, answer nothing.
        ParameterError: `clip` is not a positive finite number.
    """
    if not (np.isfinite(clip) and clip > 0):
        raise ParameterError(f"clip must be a positive finite L2 norm, got {clip}")
    x = np.array(update, np.float64).ravel()
    if not np.isfinite(x).all():
        raise UpdateError(
            f"an update must be finite, {int((~np.isfinite(x)).sum())} of {x.size} entries are not"
        )
    largest = float(np.max(np.abs(x), initial=0.0))
    if largest == 0.0:
        return x
    # Everything in units of the largest entry: squares of very large or very small entries would leave float64's range,
    # and so would a factor that takes them to the ball in one step.
    direction = x / largest
    norm = float(np.linalg.norm(direction))
    allowed = clip * (1.0 - SLACK)
    return direction * (allowed / norm) if norm > allowed / largest else x
