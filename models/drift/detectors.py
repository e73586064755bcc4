"""All detectors over all sensors of one device, each beside its threshold; no schedule, no memory of a verdict.

::

    rows ─┬─► normal scores ─► CUSUM charts     `watch`: as often as one likes, a few microseconds a call
          ├─► repeats ─► stuck                  `watch`
          ├─► gaps ─► missing                   `fill`, before the others see the rows
          └─► EWMA-histogram                    `count`: in larger blocks, for shape shows slowly anyhow

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

from models.drift.bins import BINS, Bins
from models.drift.calibration import SHARES
from models.drift.cusum import CHARTS, MEANS, CusumCharts
from models.drift.ewma_histogram import EwmaHistogram
from models.drift.limits import chart_thresholds, cuts, histogram_thresholds, largest_wander
from models.drift.normal_scores import LARGEST_SCORE, NormalScores
from models.drift.reference import DriftReference
from models.drift.repeats import stuck_runs
from models.drift.sensor_checks import SensorChecks

__all__ = ["DETECTORS", "STATISTICS", "STUCK", "Detectors"]

DETECTORS: Final = (*CHARTS, "histogram", "stuck", "missing")
"""Names of the rows of `Detectors.ratios`."""

STATISTICS: Final = slice(0, len(CHARTS) + 1)
"""The rows that compare a distribution; the others count windows."""
STUCK: Final = DETECTORS.index("stuck")
_CHARTS: Final = slice(0, len(CHARTS))
_HISTOGRAM: Final = DETECTORS.index("histogram")
_SPREAD_AND_SHAPE: Final = slice(MEANS.stop, STATISTICS.stop)
_MISSING: Final = DETECTORS.index("missing")
_CEILING: Final = 1.5
"""Sums stop at one and a half times their threshold, so that recovery does not take as long as the drift did."""
_UNMEASURED_STUCK_WINDOWS: Final = 12

_MORE_WANDER: Final = 0.5
_WANDER_MARGIN: Final = 2.0
"""What came back by itself may go twice as far another time, or half a deviation further."""
_WIDER: Final = 0.25
"""What is added to the other columns' wander: the machine was quieter in its reference than it is."""

Float = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Detectors:
    """The detectors of F sensors and of the log anomaly score.

    Args:
        reference: what is normal.
        run_length: ARL0 of each column, windows.
        factor: multiplies every statistical threshold.
        shortest_stuck: windows in a row with the same value that count as stuck at the earliest.
        missing_windows: windows in a row without a value that count as missing.

    Attributes:
        ratios: statistic ÷ threshold (9, F + 1): the rows of `DETECTORS` as of the last `watch`, `fill` and `count`.
        thresholds: (9, F + 1); infinite where a detector does not watch a column.
        is_any_missing: did a sensor lack a value in the last windows that `fill` was shown?
    """

    def __init__(
        self,
        reference: DriftReference,
        *,
        run_length: float,
        factor: float,
        shortest_stuck: int,
        missing_windows: int,
    ) -> None:
        count = reference.sensors
        self._reference = reference
        self._widest = largest_wander(reference, run_length)
        shape = np.asarray(reference.shape or (1.0,) * (count + 1))
        self.thresholds = np.full((len(DETECTORS), count + 1), np.inf)
        self.thresholds[_CHARTS] = factor * chart_thresholds(reference, run_length)
        self.thresholds[_HISTOGRAM] = factor * shape * histogram_thresholds(reference, run_length)
        self.thresholds[_MISSING, :-1] = missing_windows
        unmeasured = [(max(_UNMEASURED_STUCK_WINDOWS, shortest_stuck),) * 2] * count
        measured = [
            stuck_runs(each, run_length=run_length / SHARES["stuck"], shortest=shortest_stuck)
            for each in reference.repeats
        ]
        self._stuck_runs = np.array(measured or unmeasured, np.float32)
        self.thresholds[STUCK, :-1] = self._stuck_runs[:, 0]
        self._inverse = (1.0 / self.thresholds).astype(np.float32)
        self.ratios = np.zeros(self.thresholds.shape, np.float32)
        self._per_chart, self._chart_ratios = self._inverse[_CHARTS], self.ratios[_CHARTS]

        columns, memory = reference.columns, reference.memories
        self.wander = self._measured_wander = np.asarray(reference.wander or (0.0,) * (count + 1))
        self._is_rest = np.array([[i in each.atoms for i in range(BINS)] for each in columns]).ravel()
        self._scores = NormalScores(
            columns,
            cut=cuts(reference, self.wander),
            moments=reference.centres if reference.is_wandering else None,
        )
        self._charts = CusumCharts(
            memory=memory,
            fitted_on=reference.fitted_on / memory,
            wander=self.wander,
            swing=np.asarray(reference.swing or (0.0,) * (count + 1)),
            ceiling=np.where(np.isinf(self.thresholds[_CHARTS]), 0.0, _CEILING * self.thresholds[_CHARTS]),
        )
        self._histogram = EwmaHistogram(columns[:-1])
        self._checks = SensorChecks(np.asarray(reference.std))
        self._calm_values = _calm_values(reference)
        self.is_any_missing = False
        self._seen: list[NDArray[np.intp]] = []

    @property
    def histograms(self) -> Doubles:
        """The forgetting histogram of each sensor (F, 10), by its reference's bins."""
        return self._histogram.histograms

    @property
    def stuck(self) -> NDArray[np.int16]:
        """Windows in a row that each sensor (F,) repeats itself."""
        return self._checks.stuck

    def fill(self, rows: Float, windows: int) -> None:
        """Count what is missing (NaN) in k windows (k, F + 1), which follow `windows` earlier ones, and fill it in place."""
        values = rows[:, :-1]
        gaps = ~np.isfinite(values)
        self._checks.watch_gaps(gaps)
        self.ratios[_MISSING, :-1] = self._checks.missing * self._inverse[_MISSING, :-1]
        self.is_any_missing = bool(self._checks.missing.any())
        # Steps of seven visit all ten, far ones after each other, so that no chart of a mean adds them up.
        turn = 7 * (windows + np.arange(len(rows))) % BINS
        np.copyto(values, self._calm_values[turn], where=gaps)

    def watch(self, rows: Float) -> None:
        """Show the charts and the stuck check k windows (k, F + 1) in order; the last column is ln score."""
        self._charts.update(self._scores(rows))
        self._seen.append(self._scores.cells)
        np.multiply(self._charts.statistic, self._per_chart, out=self._chart_ratios)
        if self._checks.watch_repeats(rows[:, :-1]):
            self._compare_stuck()

    def count(self, rows: Float) -> None:
        """Show the histogram k windows (k, F + 1) in order: all those that `watch` has seen since the last time."""
        cells = np.concatenate(self._seen) if self._seen else self._scores.cells[:0]
        self._seen.clear()
        if len(cells) != len(rows):  # after a restart some are known as rows alone
            self._scores(rows)
            cells = self._scores.cells
        self._histogram.update(cells[:, :-1])
        self._compare_counted()

    def allow(self, shifts: Doubles, runs: Doubles) -> None:
        """What came back by itself is within a machine's wander, and no news another time.

        Args:
            shifts: how far each column was off, in standard deviations, shape (F + 1,); 0 where it was not.
            runs: how long each sensor repeated itself, windows, shape (F,); 0 where that was no finding.
        """
        if shifts.any():
            further = np.maximum(self.wander + _MORE_WANDER, _WANDER_MARGIN * np.abs(shifts))
            if not self._reference.is_wandering:  # scores end at 3: what is further out must still be seen
                further = np.minimum(further, np.maximum(self.wander, LARGEST_SCORE - 1.0))
            wider = np.maximum(self.wander, np.minimum(self.wander + _WIDER, self._widest))
            self._put_up_with(np.where(shifts, further, wider))
        self._stuck_runs = np.maximum(self._stuck_runs, 2 * runs[:, None]).astype(np.float32)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Named arrays to save."""
        arrays: dict[str, NDArray[np.generic]] = {"wander": self.wander, "stuck_runs": self._stuck_runs}
        for name, part in self._parts().items():
            arrays |= {f"{name}.{key}": value for key, value in part.state().items()}
        return arrays

    def restore(self, state: dict[str, NDArray[np.floating]]) -> None:
        """Continue from what `state` gave; raises ValueError for arrays of another shape."""
        for name, part in self._parts().items():
            prefix = f"{name}."
            part.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self._put_up_with(np.array(state["wander"], np.float64))
        self._stuck_runs = np.array(state["stuck_runs"], np.float32)
        np.multiply(self._charts.statistic, self._per_chart, out=self._chart_ratios)
        self._scores(np.append(self._checks.previous, np.float32(0.0))[None])
        self._compare_stuck()
        self.ratios[_MISSING, :-1] = 0.0
        self.is_any_missing = False
        self._seen.clear()
        self._compare_counted()

    def _put_up_with(self, wander: Doubles) -> None:
        self.wander = wander
        self._charts.allow(wander)
        self._scores.set_cut(cuts(self._reference, wander))
        # A level that comes and goes takes spread and shape with it.
        is_elsewhere = wander >= self._measured_wander + _MORE_WANDER
        self._inverse[_SPREAD_AND_SHAPE, is_elsewhere] = 0.0
        self.thresholds[_SPREAD_AND_SHAPE, is_elsewhere] = np.inf

    def _compare_stuck(self) -> None:
        """By where the sensors lie in the window that was scored last: at rest, or away from it."""
        is_rest = self._is_rest[self._scores.cells[-1, :-1]]
        self.thresholds[STUCK, :-1] = np.where(is_rest, self._stuck_runs[:, 1], self._stuck_runs[:, 0])
        np.divide(
            self._checks.stuck, self.thresholds[STUCK, :-1], out=self.ratios[STUCK, :-1], casting="same_kind"
        )

    def _compare_counted(self) -> None:
        np.multiply(
            self._histogram.statistic,
            self._inverse[_HISTOGRAM, :-1],
            out=self.ratios[_HISTOGRAM, :-1],
            casting="same_kind",
        )

    def _parts(self) -> dict[str, CusumCharts | EwmaHistogram | SensorChecks]:
        return {"charts": self._charts, "histogram": self._histogram, "checks": self._checks}


def _calm_values(reference: DriftReference) -> Float:
    """A value of each tenth of the reference (10, F), ascending."""
    return np.array([_tenths(bins) for bins in reference.columns[:-1]], np.float32).T


def _tenths(bins: Bins) -> NDArray[np.float64]:
    """The value below which 5, 15 … 95 % of a sensor's windows lie, as far as its bins tell."""
    shares = np.cumsum(bins.masses)
    which = np.minimum(np.searchsorted(shares, (np.arange(BINS) + 0.5) / BINS), BINS - 1)
    outer = np.concatenate([[bins.edges[0] - bins.tails[0]], bins.edges, [bins.edges[-1] + bins.tails[1]]])
    middle = np.concatenate([[outer[0]], (outer[1:-2] + outer[2:-1]) / 2, [outer[-1]]])
    return np.asarray(middle[which])
