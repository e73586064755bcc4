"""Who judges a window: the network of a release, or the mixture of what the fleet and this device know.

::

    row ─┬─ network: reconstruction ─► mean squared error ──────────────► statistic = score
         └─ mixture: its context taken out ─► quadratic form ─► score ─► several time scales ─► statistic   (`models.detection`)

The statistic is compared with the threshold; the score is one window's alone, and what drift is looked for in. A judge
remembers nothing of a window but its time scales, and decides nothing: alarms are `edge_agent.episodes`.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.live_context import LiveContext
from models.detection.context import Context
from models.detection.detector import Detector
from models.detection.promise import AlarmBudget
from models.int8_model import WindowModel
from models.thresholds import PersonalThreshold

__all__ = ["Judge", "MixtureJudge", "NetworkJudge"]

Float = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Judge(Protocol):
    """What turns one standardised row (F,) after the other into a statistic.

    Attributes:
        threshold: what the statistic is compared with.
        opens_after_windows: windows over it, among the last this many + 1, that open an alarm.
        builds_up_windows: windows among which an alarm may have begun before it opens.
    """

    @property
    def threshold(self) -> PersonalThreshold:
        """See above."""

    @property
    def opens_after_windows(self) -> int:
        """See above."""

    @property
    def builds_up_windows(self) -> int:
        """See above."""

    @property
    def context(self) -> Context | None:
        """What rows are seen in; None: they are judged as they are."""

    @property
    def is_lost(self) -> bool:
        """Does its context say nothing any more?"""

    @property
    def beside(self) -> tuple[Float, float] | None:
        """The row just judged (F,), and its score, from a level that people were told of and nobody has called normal; None: not there."""

    def see(self, row: Float, machine_s: float) -> Float:
        """The row (F,) that is judged, and watched for drift, of a standardised one at a time of the machine's clock."""

    def judge(self, row: Float) -> tuple[float, float]:
        """(statistic, score) of the next window, as it is seen, ≥ 0; raises ModelError."""

    def may_alarm(self, score: float) -> bool:
        """Would windows like the row just judged, of this score, alarm if they went on?"""

    def probe(self, row: Float) -> float:
        """The statistic if just such windows came for as long as the shortest event lasts; changes nothing. Raises ModelError."""

    def blame(self, row: Float, missing: Bools | None) -> Float | None:
        """How much of the score of the row just judged each value (F,) made, nothing for a `missing` one; None: nobody knows."""


class NetworkJudge:
    """The release's own model."""

    context: Final = None
    is_lost: Final = False
    beside: Final = None

    def __init__(self, model: WindowModel, threshold: PersonalThreshold, *, opens_after_windows: int) -> None:
        self.threshold = threshold
        self.opens_after_windows = opens_after_windows
        self.builds_up_windows = opens_after_windows + 1
        self._model = model
        self._output: Float | None = None

    def see(self, row: Float, machine_s: float) -> Float:  # noqa: ARG002 - it has no context
        """See `Judge.see`."""
        return row

    def judge(self, row: Float) -> tuple[float, float]:
        """See `Judge.judge`."""
        self._output, score = self._model.infer_and_score(row)
        return score, score

    def may_alarm(self, score: float) -> bool:
        """See `Judge.may_alarm`; of NaN, too."""
        return not score <= self.threshold.value

    def probe(self, row: Float) -> float:
        """See `Judge.probe`."""
        return self._model.infer_and_score(row)[1]

    def blame(self, row: Float, missing: Bools | None) -> Float | None:
        """See `Judge.blame`: squared errors of the reconstruction; a classifier has none."""
        if self._output is None or self._output.shape != row.shape:
            return None
        return _measured(np.square(self._output - row), missing)


class MixtureJudge:
    """A detector that was fitted on this device's rows.

    `unheard` is a sentence for people where most values alone can open no alarm, else empty. At `unknown_levels` (k, F) of the
    machine an anomaly neither opens nor ends, unless it is one from there, too (`edge_agent.unknown_regimes`); `which_unknown` it was last.
    Drift sees scores in multiples of the typical one: with every fit a score has another unit, and that is no drift.
    """

    opens_after_windows: Final = 1
    """The time scales ask for two of three windows already."""

    def __init__(self, detector: Detector, context: Context | None = None) -> None:
        form, promise = detector.form, detector.promise
        self._live = LiveContext(context)
        self.context, self.see = context, self._live.see
        self.unknown_levels: Float | None = None
        self.beside: tuple[Float, float] | None = None
        self.which_unknown = 0
        self.detector, self.promise = detector, promise
        self.threshold = PersonalThreshold(
            value=promise.threshold, wanted=promise.threshold, fitted_on=promise.fitted_on
        )
        self.builds_up_windows = max(form.averages, default=1)
        self.scales = detector.make_time_scales()
        self._score = detector.score
        self._per_typical = 1.0 / form.typical**2  # a distance; scores are squares
        *units, of_furthest = form.units
        # An average of equal scores is that score.
        self._calm_below = promise.threshold * min(units) * self._per_typical
        self._furthest, self._furthest_below = 0.0, promise.threshold * of_furthest
        self.unheard = _unheard(detector)

    def with_budget(self, budget: AlarmBudget) -> MixtureJudge:
        """The same judge under another budget of false alarms; it goes on with the windows it has seen."""
        renewed = MixtureJudge(self.detector.with_budget(budget), self.context)
        renewed._live, renewed.see = self._live, self.see
        renewed.scales.resume(self.scales.state)
        return renewed

    def judge(self, row: Float) -> tuple[float, float]:
        """See `Judge.judge`."""
        scores = self._score(row)
        score, self._furthest = scores
        if self.unknown_levels is None:
            return self.scales.update(score, self._furthest), score * self._per_typical
        statistic = self.scales.update(*self._look_beside(row, scores))
        if self.beside is not None:  # at the threshold an anomaly neither opens nor ends
            statistic = max(statistic, self.threshold.value)
        return statistic, score * self._per_typical

    @property
    def is_lost(self) -> bool:
        """See `Judge.is_lost`."""
        return self._live.is_lost

    def _look_beside(self, row: Float, scores: tuple[float, float]) -> tuple[float, float]:
        """The scores of a row (F,), from a level that nobody has called normal yet where it is of one."""
        assert self.unknown_levels is not None  # noqa: S101 - for the type checker: called with some
        offsets, lasting = [row - level for level in self.unknown_levels], self.scales.lasting
        found = [self._score(offset) for offset in offsets]
        least = min(found, key=lambda pair: lasting(*pair))
        # It comes with a window that would be an anomaly, and goes with one that is nearer to what is known.
        is_there = lasting(*least) < lasting(*scores) and (
            self.beside is not None or self.may_alarm(scores[0] * self._per_typical)
        )
        if not is_there:
            self.beside = None
            return scores
        self.which_unknown = found.index(least)
        self.beside = offsets[self.which_unknown], least[0] * self._per_typical
        return least

    def may_alarm(self, score: float) -> bool:
        """See `Judge.may_alarm`."""
        return score > self._calm_below or self._furthest > self._furthest_below

    def probe(self, row: Float) -> float:
        """See `Judge.probe`."""
        return self.scales.lasting(*self._score(row))

    def blame(self, row: Float, missing: Bools | None) -> Float | None:
        """See `Judge.blame`."""
        return _measured(self.detector.blame(row), missing)


def _unheard(detector: Detector) -> str:
    """One sentence where most sensors alone cannot open an alarm, however far off they are; else empty."""
    count, features = int(np.count_nonzero(detector.unheard)), len(detector.unheard)
    if 2 * count <= features:
        return ""
    return (
        f"{count} of {features} values, each alone at the end of its scale, open no alarm: learn longer, or allow more"
        " ([detection.budget])"
    )


def _measured(parts: Float, missing: Bools | None) -> Float:
    # An estimate is nobody's fault.
    return parts if missing is None else np.where(missing, np.float32(0), parts)
