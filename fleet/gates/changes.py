"""What one device changed by, for each metric: its span on the release against its own past. Large is harm.

    metric             change                                                        stop   pass   alone
    latency            mean log p99 after − before                                   × 1.05 × 1.2  × 1.2
    rate up            2√(y + ⅜) − 2√(x' + ⅜), y = alarms, x' = those of before       × 1.1  × 2    × 1.5
    unjudged           the same, of windows without a score                          × 1.5  × 2    × 2
    rate down          log((x + ½)/(W₀ + 1)) − log((y + ½)/(W₁ + 1))                 ÷ 1.5  ÷ 2    ÷ 2
    memory             slope of log PSS an hour, after − before                      + .03  + .05  + .05
    drift score        mean log after − before                                       × 1.25 × 1.5  × 1.5
    sight              share seen before − after                                     − .05  − .10  − .10

A margin is what a release may do without being stopped (`stop`), and what it must be shown not to do in order to pass (`pass`); `alone`
is the first of these where there are no controls. At the margin, canaries must look like controls. A shift is taken off. Counts
that may grow are divided (`y/θ + ⅜`: ⅜ before the division breaks the ties at zero); where they may fall, controls are thinned.
Source of the root: Anscombe, "The transformation of Poisson, binomial and negative-binomial data", Biometrika 35, 1948.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.gates.arms import Shown
from fleet.gates.plan import Metric
from fleet.gates.thinning import thin

__all__ = ["MARGINS", "Kind", "Margins", "change", "counts", "exposure_ratio", "is_told", "plain_change"]

Floats = NDArray[np.float64]


class Kind(StrEnum):
    """How a metric is compared with its past."""

    RATIO = "ratio"  # of a logarithm: a margin is a factor
    DIFFERENCE = "difference"
    MORE = "more"  # of a count
    FEWER = "fewer"


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How a metric is compared, and the sizes of harm that count. Factors, or differences."""

    kind: Kind
    stop: float
    passing: float
    alone: float

    @property
    def none(self) -> float:
        """The effect of a release that does nothing."""
        return 0.0 if self.kind is Kind.DIFFERENCE else 1.0


MARGINS: Final[dict[Metric, Margins]] = {
    Metric.LATENCY_P99: Margins(kind=Kind.RATIO, stop=1.05, passing=1.2, alone=1.2),
    Metric.ANOMALY_RATE: Margins(kind=Kind.MORE, stop=1.1, passing=2.0, alone=1.5),
    Metric.ANOMALY_LOSS: Margins(kind=Kind.FEWER, stop=1.5, passing=2.0, alone=2.0),
    Metric.UNJUDGED: Margins(kind=Kind.MORE, stop=1.5, passing=2.0, alone=2.0),
    Metric.MEMORY: Margins(kind=Kind.DIFFERENCE, stop=0.03, passing=0.05, alone=0.05),
    Metric.DRIFT_SCORE: Margins(kind=Kind.RATIO, stop=1.25, passing=1.5, alone=1.5),
    Metric.SIGHT: Margins(kind=Kind.DIFFERENCE, stop=0.05, passing=0.10, alone=0.10),
}
"""Restarts and verdicts are not compared by ranks and are not here."""


def _level(metric: Metric, shown: Shown) -> Floats:
    """What is compared as it is; large is harm."""
    if metric is Metric.LATENCY_P99:
        return shown.log_latency
    if metric is Metric.DRIFT_SCORE:
        return shown.log_drift
    if metric is Metric.MEMORY:
        return shown.memory_slope
    return -shown.sight


def _count(metric: Metric, shown: Shown) -> tuple[Floats, Floats]:
    """What is counted, and among how many windows; nothing finite where there was none."""
    counted, windows = (
        (shown.unjudged, shown.windows) if metric is Metric.UNJUDGED else (shown.over, shown.judged)
    )
    known = windows > 0
    return np.where(known, counted, np.nan), np.where(known, windows, np.nan)


def is_told(metric: Metric, shown: Shown) -> NDArray[np.bool_]:
    """(n,) who showed this metric at all."""
    if MARGINS[metric].kind in {Kind.MORE, Kind.FEWER}:
        return np.isfinite(_count(metric, shown)[0])
    return np.isfinite(_level(metric, shown))


def change(
    metric: Metric, before: Shown, after: Shown, margin: float, is_canary: NDArray[np.bool_], lots: Floats
) -> Floats:
    """(n,) harm, canaries forgiven `margin` (a factor, or for memory and sight a difference); NaN where a device did not tell.

    Args:
        metric: any but restarts and verdicts.
        before: each device's past.
        after: each device's present, in the same order.
        margin: what canaries are forgiven; `Margins.none` forgives nothing.
        is_canary: (n,) who is forgiven. Where counts may fall, controls are thinned instead.
        lots: (n,) of each device, see `thinning`.
    """
    kind, none = MARGINS[metric].kind, MARGINS[metric].none
    forgiven = np.where(is_canary, margin, none)
    if kind is Kind.RATIO:
        return _level(metric, after) - _level(metric, before) - np.log(forgiven)
    if kind is Kind.DIFFERENCE:
        return _level(metric, after) - _level(metric, before) - forgiven
    if kind is Kind.FEWER:
        (counted, windows), (past, past_windows) = _count(metric, after), _count(metric, before)
        counted = thin(counted, np.where(is_canary, 1.0, none / margin), lots)
        was: Floats = np.log((past + 0.5) / (past_windows + 1))
        return was - np.log((counted + 0.5) / (windows + 1))
    counted, expected = counts(metric, before, after)
    root: Floats = 2 * np.sqrt(counted / forgiven + 0.375) - 2 * np.sqrt(expected + 0.375)
    return root


def plain_change(metric: Metric, before: Shown, after: Shown) -> Floats:
    """(n,) harm as it is, nothing forgiven; NaN for a device that did not tell."""
    nobody = np.zeros(len(after), dtype=np.bool_)
    return change(metric, before, after, MARGINS[metric].none, nobody, np.full(len(after), 0.5))


def counts(metric: Metric, before: Shown, after: Shown) -> tuple[Floats, Floats]:
    """For what is counted: (n,) how many there were, and how many as before there would have been."""
    (counted, windows), (past, past_windows) = _count(metric, after), _count(metric, before)
    return counted, past * windows / past_windows


def exposure_ratio(metric: Metric, before: Shown, after: Shown) -> Floats:
    """For what is counted: (n,) how many times as many windows there were as before."""
    return _count(metric, after)[1] / _count(metric, before)[1]
