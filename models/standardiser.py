"""Each machine's own scale: features in units of that machine's healthy variation.

Fitted once, in commissioning, and then kept: refitting would hide the very drift it should show. Personal centring is
what makes one shared model fit machines that differ (on PRONOSTIA it is worth a factor five in false alarms).

Units have no influence: °C or kelvin, A or nA give the same rows, to what float32 can hold of the readings. Therefore
no floor is absolute or relative to the value; the only one is the sensor's own resolution, the smallest step between
two of its values. A sensor that showed one value only has no scale: it stays at 0 until it has moved twice, and then its
first step is its unit (`scaled_by_first_step`). Any smaller unit would call that step an anomaly for ever.

Mean and deviation, not median and MAD: those are 0 on a flag and wrong by a quarter on a coarse reading. What they
would guard against, a glitch of the wire, is recognised by being alone (`find_glitches`).

Invariants: every `std` is positive, `apply` returns float32 within ±8, finite for finite input.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from models.errors import InputError

__all__ = [
    "CLIP",
    "Standardiser",
    "find_glitches",
    "fit_standardiser",
    "moves",
    "pooled",
    "scaled_by_first_step",
]

CLIP = 8.0
"""Where standardised values end: `protocol.grids.FEATURE_GRID` ends there, and int8 keeps its resolution."""

GLITCH_STDS: Final = 12.0
"""Winsorised deviations beyond which a value that stands alone is a glitch: t₃ at its most extreme reaches it now and then."""

GLITCH_SHARE: Final = 0.002
"""What may be removed at most (or one row): more than that is how the machine behaves, and removing 5 % costs detection."""

FEWEST_FOR_GLITCHES: Final = 20
"""Of fewer values nobody can say what is usual: a tail of 5 % would be none."""

_GLITCH_RUN: Final = 3
"""As many in a row are no glitch."""
_TAIL: Final = 0.05
"""What winsorising pulls in at either end."""
_HAIR_STEPS: Final = 4
"""Values that differ by fewer steps of float32 are one value with rounding noise on it."""

Floats = NDArray[np.floating]


class Standardiser(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Centre and scale per sensor, and the number of windows they were fitted on.

    `unscaled` are the sensors that showed one value only: their `std` means nothing, and they stay at 0; `unseen` those
    that showed none: they stay missing, NaN, whatever they deliver later.
    `is_provisional` says that the estimates had not settled when commissioning had to end.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    fitted_on: int
    unscaled: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    is_provisional: bool = False

    @property
    def scale(self) -> NDArray[np.float64]:
        """What to divide by, (F,); infinite for a sensor without a scale, NaN for one that was never seen."""
        scale = np.array(self.std, np.float64)
        scale[list(self.unscaled)] = np.inf
        scale[list(self.unseen)] = np.nan
        return scale

    def apply(self, x: Floats) -> NDArray[np.float32]:
        """(F,) or (n, F) raw features → the same shape in units of healthy variation, clipped to ±8."""
        # In float64: of a small change on a large value, float32 keeps too little through a subtraction.
        centred = np.asarray(x) - np.asarray(self.mean, np.float64)
        return np.clip(centred / self.scale, -CLIP, CLIP).astype(np.float32)


def fit_standardiser(rows: Floats) -> Standardiser:
    """Learn a machine's scale from its first windows.

    Args:
        rows: raw features, shape (n, F), n ≥ 2, in the order of time. What is not finite counts as missing.

    Raises:
        InputError: fewer than two rows, or another rank.

    >>> scale = fit_standardiser(np.array([[1.0, 40.0], [2.0, 40.0], [3.0, 40.0]]))
    >>> scale.apply(np.array([4.0, 40.04])).round(2)
    array([2., 0.], dtype=float32)
    >>> scale.unscaled
    (1,)
    """
    x = np.array(rows, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"a standardiser needs at least 2 rows of features, got an array of shape {x.shape}")
    x[~np.isfinite(x) | find_glitches(x)] = np.nan
    present = np.isfinite(x).sum(axis=0)
    filled = np.where(np.isfinite(x), x, 0.0)
    mean = filled.sum(axis=0) / np.maximum(present, 1)
    squares = np.where(np.isfinite(x), x - mean, 0.0) ** 2
    std = np.sqrt(squares.sum(axis=0) / np.maximum(present - 1, 1))
    resolution = _resolution(x)
    std = np.where(resolution > 0, np.maximum(std, resolution / 12**0.5), 1.0)  # that of rounding to the step
    return Standardiser(
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        fitted_on=len(x),
        unscaled=tuple(np.flatnonzero((resolution == 0) & (present > 0)).tolist()),
        unseen=tuple(np.flatnonzero(present == 0).tolist()),
    )


def find_glitches(rows: Floats) -> NDArray[np.bool_]:
    """Cells (n, F) that no machine produced: far outside everything else of their sensor, alone, and rare.

    Beyond `GLITCH_STDS` winsorised deviations, at most `GLITCH_SHARE` of a sensor's values or one, never three in a
    row. Where a sensor has more of them, none is one: then that is how it behaves.
    """
    x = np.asarray(rows, np.float64)
    if len(x) < FEWEST_FOR_GLITCHES:
        return np.zeros(x.shape, np.bool_)
    present = np.isfinite(x)
    x = np.where(present, x, np.nan)
    kept = np.clip(x, _order_statistic(x, _TAIL), _order_statistic(x, 1 - _TAIL))
    count = np.maximum(present.sum(axis=0), 1)
    centre = np.where(present, kept, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(present, kept - centre, 0.0) ** 2).sum(axis=0) / count)
    distance = np.where(present, np.abs(x - centre), 0.0)
    most = max(1, int(GLITCH_SHARE * len(x)))
    suspects = np.argpartition(distance, -most, axis=0)[-most:]
    rest = x.copy()
    # A step to a glitch is no resolution; that of a coarse sensor's other values is.
    np.put_along_axis(rest, suspects, np.nan, axis=0)
    limit = np.maximum(GLITCH_STDS * np.maximum(spread, _resolution(rest) / 12**0.5), _hair(rest))
    far = np.asarray(distance > limit)
    if not far.any():
        return far
    in_a_row = sum(far[i : len(far) - _GLITCH_RUN + 1 + i].astype(np.int8) for i in range(_GLITCH_RUN))
    is_alone = ~(np.asarray(in_a_row) == _GLITCH_RUN).any(axis=0)
    is_rare = far.sum(axis=0) <= most
    return np.asarray(far & is_alone & is_rare)


def scaled_by_first_step(standardiser: Standardiser, first: Floats, second: Floats) -> Standardiser:
    """The same scale, but for sensors without one that have moved twice: the smaller of both steps is their unit.

    What later goes eight times as far is at the end of the scale, and what keeps to it is no anomaly. One move alone may
    be a glitch of the wire, and a unit of 150 °C would deafen the sensor for good.

    Args:
        standardiser: the scale so far.
        first: raw values (F,) of the move before, NaN where there was none.
        second: raw values (F,) now.
    """
    mean, std = np.array(standardiser.mean), np.array(standardiser.std)
    both = moves(standardiser, first) & moves(standardiser, second)
    moved = [i for i in standardiser.unscaled if both[i]]
    if not moved:
        return standardiser
    std[moved] = np.abs(np.array([first, second], np.float64) - mean).min(axis=0)[moved]
    still = tuple(i for i in standardiser.unscaled if i not in moved)
    return replace(standardiser, std=tuple(std.tolist()), unscaled=still)


def moves(standardiser: Standardiser, features: Floats) -> NDArray[np.bool_]:
    """Which raw features (F,) differ from the sensor's centre by more than float32's rounding."""
    mean = np.array(standardiser.mean)
    step = np.abs(np.asarray(features, np.float64) - mean)
    return np.asarray(np.isfinite(step) & (step > _hair(np.stack([mean, mean]))))


def pooled(before: Standardiser, after: Standardiser) -> Standardiser:
    """One scale for the windows of two, as if they had been fitted together: a machine that has a second regime has both."""
    n = np.array([_windows(before), _windows(after)], np.float64)
    share = n / np.maximum(n.sum(axis=0), 1)
    means, variances = np.array([before.mean, after.mean]), np.square([before.std, after.std])
    for i, one in enumerate((before, after)):
        variances[i, list(one.unscaled)] = 0.0
    mean = (share * means).sum(axis=0)
    std = np.sqrt((share * (variances + np.square(means - mean))).sum(axis=0))
    is_seen = n.sum(axis=0) > 0
    has_scale = std > _hair(means)
    return Standardiser(
        mean=tuple(mean.tolist()),
        std=tuple(np.where(has_scale & is_seen, std, 1.0).tolist()),
        fitted_on=before.fitted_on + after.fitted_on,
        unscaled=tuple(np.flatnonzero(is_seen & ~has_scale).tolist()),
        unseen=tuple(np.flatnonzero(~is_seen).tolist()),
        is_provisional=after.is_provisional,
    )


def _windows(scale: Standardiser) -> NDArray[np.float64]:
    """Windows in which each sensor was seen, (F,)."""
    windows = np.full(len(scale.mean), float(scale.fitted_on))
    windows[list(scale.unseen)] = 0.0
    return windows


def _resolution(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest step (F,) between two values of a sensor; 0 where it has fewer than two."""
    steps = np.diff(np.sort(x, axis=0), axis=0)
    steps[~(steps > _hair(x))] = np.inf
    smallest = steps.min(axis=0, initial=np.inf)
    return np.where(np.isfinite(smallest), smallest, 0.0)


def _hair(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What float32, in which sources deliver, cannot tell apart near the largest value of each sensor, (F,)."""
    largest = np.abs(np.where(np.isfinite(x), x, 0.0)).max(axis=0)
    return np.asarray(_HAIR_STEPS * np.spacing(np.minimum(largest, 1e38).astype(np.float32)), np.float64)


def _order_statistic(x: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The quantile (F,) that is one of the values, the inner one: an interpolated one would look like a resolution."""
    ordered = np.sort(x, axis=0)  # what is missing comes last
    last = np.maximum(np.isfinite(x).sum(axis=0) - 1, 0)
    index = np.ceil(share * last) if share < 0.5 else np.floor(share * last)
    return np.asarray(np.take_along_axis(ordered, index.astype(int)[None], axis=0)[0])
