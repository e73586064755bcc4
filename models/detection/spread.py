"""How sensors vary together: a device's own correlations, mixed with the fleet's by what each is worth.

    own      R of n independent windows, which misses the truth by v = mean of (1 − r²)² / n on average (squared)
    fleet    S, the mean of the devices' R; they differ from it by b², beyond what v explains
    mixed    w·R + (1 − w)·S,  w = b² / (b² + v)

Correlations and not covariances: how much each sensor varies is said by `models.detection.scale`, once, and a sensor that did not
move here must not look like one that may not. A device's part of the sum is bounded by that, too.

The wander Ω says in which directions a healthy machine's mean moves slowly: half the squared differences of the means of
successive quarters. It is added before inverting, so that what moves anyway does not count. It is mixed by the same weight.

Sources: O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivar. Anal. 88
(2004), for the weight (theirs shrinks to the identity); the variance of a correlation is R. A. Fisher's (1915).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.detection.scale import memory
from models.detection.sums import Sums
from models.errors import InputError

__all__ = ["Mixed", "Spread", "SpreadPrior", "SpreadSums", "mixed"]

Floats = NDArray[np.float64]

_QUARTERS: Final = 4
FEWEST_ROWS: Final = 8
"""Two windows in each quarter."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """One device's `correlation` and `wander` (F, F), the latter in units of its scale, and the mean squared `error` of the first."""

    correlation: Floats
    wander: Floats
    error: float

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Spread:
        """Of healthy rows (n, F), n ≥ 8, in the order of time; raises InputError for fewer."""
        if rows.ndim != 2 or len(rows) < FEWEST_ROWS:
            raise InputError(
                f"how sensors vary together needs at least {FEWEST_ROWS} windows, got an array of shape {rows.shape}"
            )
        x = np.asarray(rows, np.float64)
        centred = x - x.mean(axis=0)
        deviation = centred.std(axis=0)
        centred /= np.where(deviation > 0, deviation, 1.0)
        correlation = centred.T @ centred / len(x)
        np.fill_diagonal(correlation, 1.0)
        steps = np.diff([part.mean(axis=0) for part in np.array_split(x, _QUARTERS)], axis=0)
        independent = max(len(x) / float(np.median(memory(x))), 1.0)
        error = float(np.square(1.0 - np.square(correlation)).mean()) / independent
        return cls(correlation=correlation, wander=steps.T @ steps / 2, error=error)


@dataclass(frozen=True, kw_only=True, eq=False)
class SpreadSums(Sums):
    """What devices add up: their number, correlations and wanders (F, F), mean squares of the correlations, and errors."""

    devices: float
    correlation: Floats
    wander: Floats
    squares: float
    error: float

    @classmethod
    def of(cls, spread: Spread) -> SpreadSums:
        """One device's part."""
        return cls(
            devices=1.0,
            correlation=spread.correlation,
            wander=spread.wander,
            squares=float(np.square(spread.correlation).mean()),
            error=spread.error,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SpreadPrior:
    """What a fleet knows: mean `correlation` and `wander` (F, F), and by how much devices differ (squared, `between`)."""

    correlation: Floats
    wander: Floats
    between: float

    @classmethod
    def of(cls, sums: SpreadSums) -> SpreadPrior:
        """What follows from the sum over at least one device; one says nothing of how they differ: as much as it is large."""
        n = max(sums.devices, 1.0)
        mean = sums.correlation / n
        size = float(np.square(mean).mean())
        scatter = (sums.squares - n * size) / (n - 1.0) - sums.error / n if n > 1 else size
        return cls(correlation=mean, wander=sums.wander / n, between=max(scatter, 0.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixed:
    """`correlation` and `wander` (F, F) to detect with; `own_weight` in [0, 1] is the device's share in both."""

    correlation: Floats
    wander: Floats
    own_weight: float


def mixed(own: Spread | None, prior: SpreadPrior | None) -> Mixed:
    """The device's own and the fleet's knowledge together; raises InputError where there is neither."""
    if own is None:
        if prior is None:
            raise InputError(
                "neither the device nor the fleet knows how sensors vary together; commission first"
            )
        return Mixed(correlation=prior.correlation, wander=prior.wander, own_weight=0.0)
    if prior is None:
        return Mixed(correlation=own.correlation, wander=own.wander, own_weight=1.0)
    weight = prior.between / (prior.between + own.error) if own.error > 0 else 1.0
    return Mixed(
        correlation=weight * own.correlation + (1 - weight) * prior.correlation,
        wander=weight * own.wander + (1 - weight) * prior.wander,
        own_weight=weight,
    )
