"""One device's detector: what the fleet knows, what its own healthy windows show, and the budget, as one int8 layer and a threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.detection.experts import Form, fit_form
from models.detection.int8_layer import Int8Layer
from models.detection.openings import AlarmRules, Curve, Openings, OpeningsSums, own_counts
from models.detection.prior import FleetPrior, rescaled
from models.detection.promise import AlarmBudget, Promise, make_promise
from models.detection.scale import ScaleEvidence
from models.detection.time_scales import TimeScales, averages_for
from models.errors import InputError
from models.standardiser import CLIP

__all__ = ["FEWEST_ROWS", "Detector", "fit_detector"]

Float = NDArray[np.float32]
Floats = NDArray[np.float64]

_LOWEST: Final = np.array(-CLIP, np.float32)
_HIGHEST: Final = np.array(CLIP, np.float32)

FEWEST_ROWS: Final = 20
"""Four fifths of them are the youngest of `AGES`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """Scores windows that are standardised in the device's own scale; `promise` holds the threshold of the statistic.

    Attributes:
        centre: own healthy mean (F,), in the device's scale.
        divisor: shrunk deviation (F,), in the device's scale; 1 for a sensor that nobody saw move: should it, by what its scale says then.
        form: the score before quantisation.
        layer: the score as it runs.
        promise: threshold, and what it promises.
        curve: what to expect at each threshold, for another budget of false alarms.
    """

    centre: Float
    divisor: Float
    form: Form
    layer: Int8Layer
    promise: Promise
    curve: Curve

    def scaled(self, rows: NDArray[np.floating]) -> Float:
        """Standardised rows (F,) or (n, F) as the layer takes them."""
        scaled: Float = np.subtract(rows, self.centre, dtype=np.float32)
        scaled /= self.divisor
        np.minimum(scaled, _HIGHEST, out=scaled)  # np.clip takes three times as long for one row
        np.maximum(scaled, _LOWEST, out=scaled)
        return scaled

    def score(self, row: Float) -> tuple[float, float]:
        """Score and furthest sensor's square of one standardised window (F,), finite for finite input: what time scales are shown."""
        return self.layer.score(self.scaled(row))

    def scores(
        self, rows: NDArray[np.floating], *, is_int8: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same (n,) each, of standardised windows (n, F), as they run or before quantisation."""
        scaled = self.scaled(rows)
        if is_int8:
            return self.layer.scores(scaled)
        return self.form.scores(scaled), self.form.furthest(scaled)

    def statistics(self, rows: NDArray[np.floating]) -> Floats:
        """What the threshold is compared with (n,), for successive windows (n, F) from nothing seen."""
        return self.make_time_scales().follow(*self.scores(rows))

    def make_time_scales(self) -> TimeScales:
        """What turns scores into the statistic, from nothing seen."""
        return self.form.make_time_scales()

    def with_budget(self, budget: AlarmBudget) -> Detector:
        """The same detector under another budget of false alarms; the shortest event must be that which it was fitted for."""
        return replace(self, promise=make_promise(self.curve, budget, fitted_on=self.promise.fitted_on))

    @property
    def unheard(self) -> NDArray[np.bool_]:
        """Sensors (F,) that could stay at the end of their scale, all others at rest, and no alarm would open."""
        *units, of_furthest = self.form.units
        by_score = np.diag(self.form.matrix) / (len(self.centre) * min(units))
        by_itself = np.square(self.form.residuals).max(axis=0) / of_furthest
        return np.asarray(CLIP**2 * np.maximum(by_score, by_itself) <= self.promise.threshold)

    def blame(self, row: Float) -> Float:
        """How much each feature (F,) of a standardised window adds to what is furthest from healthy in it, not negative."""
        z, at_once, of_furthest = self.scaled(row), self.form.units[0], self.form.units[-1]
        by_score = np.maximum(z * (self.form.matrix @ z), 0.0) / (len(z) * at_once)
        by_itself = np.square(self.form.residuals @ z) / of_furthest
        return np.asarray(by_score if by_score.sum() > by_itself.max() else by_itself, np.float32)


def fit_detector(
    rows: NDArray[np.floating],
    unit: NDArray[np.floating],
    prior: FleetPrior | None,
    budget: AlarmBudget,
    rules: AlarmRules,
    *,
    knows_own: bool = True,
) -> Detector:
    """Fit on a device's healthy windows.

    Args:
        rows: standardised (n, F), n ≥ 20, in the order of time.
        unit: what one of them is in the sensor's own units (F,); infinite where it has no scale.
        prior: the fleet's; None for a device alone.
        budget: what the operator allows.
        rules: when alarms close.
        knows_own: False leaves the device's own correlations and counts out, to compare.

    Raises:
        InputError: too few rows, rows that are not finite, or a prior for other features.
    """
    if rows.ndim != 2 or len(rows) < FEWEST_ROWS:
        raise InputError(f"a detector needs at least {FEWEST_ROWS} healthy windows, got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise InputError("a detector is fitted on finite windows; leave those with gaps out")
    if prior is not None and prior.features != rows.shape[1]:
        raise InputError(f"a prior for {prior.features} features does not fit windows of {rows.shape[1]}")
    scaled, divisor = rescaled(rows, ScaleEvidence.of(rows, unit), unit, prior.scale if prior else None)
    shortest = budget.shortest_event_windows
    spread = prior.spread if prior else None
    # What runs is centred and scaled, then clipped; the fit sees the same.
    averages = averages_for(len(rows), shortest_event_windows=shortest)
    form = fit_form(scaled, spread, knows_own=knows_own, averages=averages)
    own = own_counts(scaled, spread, rules, shortest_event_windows=shortest) if knows_own else None
    # A fleet counts with averages: its curve says nothing of a device without.
    curve = _curve(prior if averages else None, own, len(rows))
    return Detector(
        centre=np.asarray(rows, np.float64).mean(axis=0).astype(np.float32),
        divisor=np.where(np.isfinite(divisor), divisor, 1.0).astype(np.float32),
        form=form,
        layer=Int8Layer.of(form.matrix, form.residuals),
        promise=make_promise(curve, budget, fitted_on=len(rows)),
        curve=curve,
    )


def _curve(prior: FleetPrior | None, own: Openings | None, windows: int) -> Curve:
    fleet = prior.curve_for(windows) if prior else None
    if fleet is not None:
        return fleet.with_own(own)
    if own is None:
        raise InputError(
            "neither the fleet nor the device has counted how often a healthy machine would alarm"
        )
    return Curve.of(OpeningsSums.of(own))
