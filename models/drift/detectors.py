"""All detectors over all sensors of one device, each beside its threshold; no schedule, no memory of a verdict.

::

    rows ─┬─► normal scores ─► CUSUM charts     `watch`: as often as one likes, a few microseconds a call
          ├─► repeats ─► stuck                  `watch`
          ├─► gaps ─► missing                   `fill`, before the others see the rows
          ├─► EWMA-histograms, two rates        `count`: in larger blocks, for shape shows slowly anyhow
          └─► range                             `count`

Every column (a sensor, or as the last one the anomaly score) keeps the same run length between false alarms; the score
has the charts for a rising mean only, for falling errors are a model that got better.

What is missing is told as missing and must not look like anything else: in its place the detectors see the reference's
own deciles in turn, which are calm on every chart and fill every bin alike.

Invariants: `ratios` are statistic ÷ threshold, 0 where a detector does not watch a column.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.calibration import HISTOGRAM_RATES, SHARES, histogram_threshold, stuck_run, threshold
from models.drift.cusum import CHARTS, CusumCharts
from models.drift.ewma_histogram import EwmaHistogram
from models.drift.normal_scores import DECILE_CENTRES, NormalScores
from models.drift.reference import BINS, DriftReference, has_tied_edges
from models.drift.sensor_checks import SensorChecks

__all__ = ["DETECTORS", "Detectors"]

DETECTORS: Final = (
    *CHARTS,
    *(f"histogram λ={rate:g}" for rate in HISTOGRAM_RATES),
    "stuck",
    "out of range",
    "missing",
)
"""Names of the rows of `Detectors.ratios`."""

_CHARTS: Final = slice(0, len(CHARTS))
_HISTOGRAMS: Final = slice(len(CHARTS), len(CHARTS) + len(HISTOGRAM_RATES))
_STUCK: Final = DETECTORS.index("stuck")
_OUTSIDE: Final = DETECTORS.index("out of range")
_MISSING: Final = DETECTORS.index("missing")
_STATISTIC_OF_CHART: Final = ("small shift", "small shift", "shift", "shift", "spread up", "spread down")
_CEILING: Final = 1.5
"""Sums stop at one and a half times their threshold, so that recovery does not take as long as the drift did."""
_COUNTED_TOGETHER: Final = 16
_CALM_BLOCK: Final = 8
_LARGEST_HISTOGRAM_THRESHOLD: Final = 0.6
"""S cannot exceed 0.9; a threshold above that would be a detector switched off."""
_UNMEASURED_STUCK_WINDOWS: Final = 12

Float = NDArray[np.float32]


class Detectors:
    """The detectors of F sensors and of the log anomaly score.

    Args:
        reference: what is normal.
        run_length: ARL0 of each column, windows.
        factor: multiplies every statistical threshold.
        shortest_stuck: windows in a row with the same value that count as stuck at the earliest.
        range_windows: windows in a row that count as out of range, or as missing.

    Attributes:
        ratios: statistic ÷ threshold (11, F + 1): the rows of `DETECTORS` as of the last `watch`, `fill` and `count`.
        thresholds: (11, F + 1); infinite where a detector does not watch a column.
    """

    def __init__(
        self,
        reference: DriftReference,
        *,
        run_length: float,
        factor: float,
        shortest_stuck: int,
        range_windows: int,
    ) -> None:
        count = reference.sensors
        memory = np.asarray(reference.memory or (1.0,) * count)
        self.thresholds = np.full((len(DETECTORS), count + 1), np.inf)
        self.thresholds[_CHARTS] = factor * _chart_thresholds(reference, memory, run_length)
        self.thresholds[_HISTOGRAMS, :-1] = _histogram_thresholds(reference, memory, run_length, factor)
        self.thresholds[_STUCK, :-1] = max(_UNMEASURED_STUCK_WINDOWS, shortest_stuck)
        for i, share in enumerate(reference.repeats):
            self.thresholds[_STUCK, i] = stuck_run(
                run_length / SHARES["stuck"],
                repeats=share,
                fitted_on=reference.fitted_on,
                shortest=shortest_stuck,
            )
        self.thresholds[_OUTSIDE, :-1] = range_windows
        self.thresholds[_MISSING, :-1] = range_windows
        self._inverse = (1.0 / self.thresholds).astype(np.float32)
        self.ratios = np.zeros(self.thresholds.shape, np.float32)
        self._per_chart, self._chart_ratios = self._inverse[_CHARTS], self.ratios[_CHARTS]

        everywhere = np.append(memory, reference.score_memory)
        self._scores = NormalScores(reference)
        self._charts = CusumCharts(
            memory=everywhere,
            fitted_on=reference.fitted_on / everywhere,
            ceiling=np.where(np.isinf(self.thresholds[_CHARTS]), 0.0, _CEILING * self.thresholds[_CHARTS]),
        )
        self._histogram = EwmaHistogram(np.asarray(reference.edges), np.asarray(HISTOGRAM_RATES))
        self._checks = SensorChecks(mean=np.asarray(reference.mean), std=np.asarray(reference.std))
        self._calm_values = _decile_centres(reference)

    @property
    def is_any_missing(self) -> bool:
        """Did a sensor lack a value in the last windows that `fill` was shown?"""
        return bool(self.ratios[_MISSING].any())

    def fill(self, rows: Float, windows: int) -> None:
        """Count what is missing (NaN) in k windows (k, F + 1), which follow `windows` earlier ones, and fill it in place."""
        values = rows[:, :-1]
        gaps = ~np.isfinite(values)
        self._checks.watch_gaps(gaps)
        self.ratios[_MISSING, :-1] = self._checks.missing * self._inverse[_MISSING, :-1]
        # Steps of seven visit all ten, far ones after each other, so that no chart of a mean adds them up.
        turn = 7 * (windows + np.arange(len(rows))) % BINS
        np.copyto(values, self._calm_values[turn], where=gaps)

    def watch(self, rows: Float) -> None:
        """Show the charts and the stuck check k windows (k, F + 1) in order; the last column is ln score."""
        self._charts.update(self._scores(rows))
        np.multiply(self._charts.statistic, self._per_chart, out=self._chart_ratios)
        if self._checks.watch_repeats(rows[:, :-1]):
            self.ratios[_STUCK, :-1] = self._checks.stuck * self._inverse[_STUCK, :-1]

    def count(self, rows: Float) -> None:
        """Show the histograms and the range check k windows (k, F + 1) in order."""
        self._histogram.update(rows[:, :-1])
        self._checks.watch_range(rows[:, :-1])
        self._compare_counted()

    def largest_ratio(self, rows: Float) -> float:
        """Show all detectors (n, F + 1) windows and say how large a statistical ratio got; runs do not count.

        Looked at every eighth window, as a monitor does in quiet times.
        """
        largest = 0.0
        for start in range(0, len(rows), _COUNTED_TOGETHER):
            block = rows[start : start + _COUNTED_TOGETHER]
            for half in (block[:_CALM_BLOCK], block[_CALM_BLOCK:]):
                self._charts.update(self._scores(half))
                np.multiply(self._charts.statistic, self._per_chart, out=self._chart_ratios)
                largest = max(largest, float(self._chart_ratios.max()))
            self.count(block)
            largest = max(largest, float(self.ratios[_HISTOGRAMS].max()))
        return largest

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Named arrays to save."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, part in self._parts().items():
            arrays |= {f"{name}.{key}": value for key, value in part.state().items()}
        return arrays

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; raises ValueError for arrays of another shape."""
        for name, part in self._parts().items():
            prefix = f"{name}."
            part.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        np.multiply(self._charts.statistic, self._per_chart, out=self._chart_ratios)
        self.ratios[_STUCK, :-1] = self._checks.stuck * self._inverse[_STUCK, :-1]
        self.ratios[_MISSING, :-1] = 0.0
        self._compare_counted()

    def _compare_counted(self) -> None:
        self.ratios[_HISTOGRAMS, :-1] = self._histogram.statistic * self._inverse[_HISTOGRAMS, :-1]
        self.ratios[_OUTSIDE, :-1] = self._checks.outside * self._inverse[_OUTSIDE, :-1]

    def _parts(self) -> dict[str, CusumCharts | EwmaHistogram | SensorChecks]:
        return {"charts": self._charts, "histogram": self._histogram, "checks": self._checks}


def _decile_centres(reference: DriftReference) -> Float:
    """A value of each tenth of the reference (10, F), ascending."""
    edges = np.asarray(reference.edges)
    mean, std = np.asarray(reference.mean), np.asarray(reference.std)
    low, high = (np.asarray(reference.tails) if reference.tails else np.tile(0.5 * std[:, None], 2)).T
    centres = np.vstack([edges[:, 0] - low, (edges[:, 1:].T + edges[:, :-1].T) / 2, edges[:, -1] + high])
    # A sensor of few values is watched by its mean alone: its tenths are lopsided, a Gaussian's are not.
    straight = mean + std * np.array(DECILE_CENTRES)[:, None]
    return np.where(has_tied_edges(reference), straight, centres).astype(np.float32)


def _chart_thresholds(
    reference: DriftReference, memory: NDArray[np.float64], run_length: float
) -> NDArray[np.float64]:
    """(6, F + 1)."""
    everywhere = np.append(memory, reference.score_memory)
    # Squares of an autoregression with lag-one correlation ρ have ρ²: they forget faster than the values.
    rho = (everywhere - 1.0) / (everywhere + 1.0)
    of_squares = (1.0 + rho**2) / (1.0 - rho**2)
    rows = []
    for statistic in _STATISTIC_OF_CHART:
        slower = of_squares if statistic.startswith("spread") else everywhere
        limit = threshold(statistic, run_length, fitted_on=reference.fitted_on / slower)
        rows.append(_with_memory(statistic, limit, everywhere, of_squares))
    limits = np.stack(rows)
    limits[4:, :-1] = np.where(has_tied_edges(reference), np.inf, limits[4:, :-1])
    limits[[1, 3, 4, 5], -1] = np.inf
    return limits


def _with_memory(
    statistic: str, limit: NDArray[np.float64], memory: NDArray[np.float64], of_squares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The threshold of independent windows, for windows that remember; `benchmarks/drift.py` measures what it gives.

    A sum of dependent steps crosses its limit smoothly, without the overshoot that independent ones have, and starts anew
    less often: in units of the long-run deviation that is worth a constant times √memory, whatever the run length.
    """
    match statistic:
        case "small shift":
            return np.maximum(limit - 1.65 * (np.sqrt(memory) - 1.0), 0.2 * limit)
        case "shift":
            return np.maximum(limit - 1.8 * (np.sqrt(memory) - 1.0), 0.2 * limit)
        case "spread up":
            return limit * (1.0 + 1.1 * (of_squares - 1.0))
        case _:
            return limit * (1.0 + 0.55 * (of_squares - 1.0))


def _histogram_thresholds(
    reference: DriftReference, memory: NDArray[np.float64], run_length: float, factor: float
) -> NDArray[np.float64]:
    """(2, F). Tied edges make unequal bins; a sensor that has them is watched by its mean and its checks."""
    limits = np.stack(
        [
            histogram_threshold(
                rate, run_length / SHARES["histogram"], fitted_on=reference.fitted_on, memory=memory
            )
            for rate in HISTOGRAM_RATES
        ]
    )
    limits = np.minimum(limits * factor, _LARGEST_HISTOGRAM_THRESHOLD)
    return np.where(has_tied_edges(reference), np.inf, limits)
