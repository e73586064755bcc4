"""How one bearing comes to a detector: whose scale, whose model, whose threshold, float or int8.

A `Recipe` says what is shared. Models are (architecture, flat parameters) of the product's families; int8 models are built
by `models.export.export_int8_model` from ranges that each device counts on its held-out windows and the cloud widens to
the common grid, and are run by `models.int8_model.Int8Model`, window by window, as the agent does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning_tables.pronostia_bearings import Bearing, Scores, score_lives
from models import reference_model
from models.architecture import Architecture
from models.export import export_int8_model
from models.int8_model import Int8Model
from models.standardiser import Standardiser
from models.thresholds import personal_threshold
from protocol.grids import RANGE_GRID, SCORE_GRID
from protocol.manifest import ThresholdSpec

__all__ = ["Model", "fleet_thresholds", "own_thresholds", "score_float", "score_int8"]

Floats = NDArray[np.floating]

QUANTILE, MARGIN = 0.999, 1.1
PERSONAL_MINIMUM, PERSONAL_MAXIMUM = 1.0, 2.0
"""A few dozen healthy scores can show that a device needs a higher threshold than the fleet; not that it may have a lower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """One model and the windows (n, F) that its int8 ranges come from, one array per device that reports."""

    architecture: Architecture
    flat: NDArray[np.float32]
    held_out: Sequence[Floats]

    def float_scores(self, x: Floats) -> Floats:
        """Scores (n,) of the float model."""
        return reference_model.infer(self.architecture, self.flat, x)[1]

    def int8_content(self) -> bytes:
        """The int8 ``.tflite`` that the cloud would publish."""
        low, high = reported_ranges(self)
        return export_int8_model(self.architecture, self.flat, low, high)

    def int8_model(self) -> Int8Model:
        """The same, loaded as the agent loads it."""
        return Int8Model(self.int8_content())


def reported_ranges(model: Model) -> tuple[Floats, Floats]:
    """(low (T,), high (T,)): the union of the devices' ranges, rounded outwards to `RANGE_GRID` as the cloud sees them."""
    reports = [reference_model.ranges(model.architecture, model.flat, x) for x in model.held_out]
    low, high = np.array([r[0] for r in reports]).T, np.array([r[1] for r in reports]).T
    bounds = [
        RANGE_GRID.outer_bounds(RANGE_GRID.count(lows), RANGE_GRID.count(highs))
        for lows, highs in zip(low, high, strict=True)
    ]
    return np.array([b[0] for b in bounds]), np.array([b[1] for b in bounds])


def score_float(
    bearings: Sequence[Bearing], scales: Sequence[Standardiser], models: Sequence[Model]
) -> list[Scores]:
    """Scores under each bearing's own scale and model; the same object may serve many bearings."""
    return _score(bearings, scales, [model.float_scores for model in models])


def score_int8(
    bearings: Sequence[Bearing], scales: Sequence[Standardiser], models: Sequence[Model]
) -> list[Scores]:
    """The same under the int8 models, each built once."""
    built = {id(model): model.int8_model() for model in models}

    def scorer(model: Model) -> Callable[[Floats], Floats]:
        int8 = built[id(model)]
        return lambda x: np.array([int8.infer_and_score(row)[1] for row in x])

    return _score(bearings, scales, [scorer(model) for model in models])


def own_thresholds(lives: Sequence[Scores]) -> list[float]:
    """Each bearing by itself: the quantile of its own healthy scores x margin."""
    return [float(np.quantile(life.healthy, QUANTILE)) * MARGIN for life in lives]


def fleet_spec(lives: Sequence[Scores]) -> ThresholdSpec:
    """The threshold that the cloud reads from the sum of the devices' histograms of their healthy scores."""
    counts = [SCORE_GRID.count(life.healthy) for life in lives]
    return ThresholdSpec(
        score=SCORE_GRID.quantile(np.sum(counts, axis=0), QUANTILE) * MARGIN,
        quantile=QUANTILE,
        margin=MARGIN,
        fitted_on=sum(len(life.healthy) for life in lives),
        personal_minimum=PERSONAL_MINIMUM,
        personal_maximum=PERSONAL_MAXIMUM,
    )


def fleet_thresholds(lives: Sequence[Scores], *, is_personal: bool) -> list[float]:
    """The fleet's threshold for each bearing, moved within the published bounds where `is_personal`."""
    spec = fleet_spec(lives)
    return [personal_threshold(spec, life.healthy).value if is_personal else spec.score for life in lives]


def _score(
    bearings: Sequence[Bearing],
    scales: Sequence[Standardiser],
    scorers: Sequence[Callable[[Floats], Floats]],
) -> list[Scores]:
    by_name = {
        bearing.name: (scale, scorer)
        for bearing, scale, scorer in zip(bearings, scales, scorers, strict=True)
    }

    def score(bearing: Bearing) -> Floats:
        scale, scorer = by_name[bearing.name]
        return scorer(scale.apply(bearing.life))

    return score_lives(bearings, score)
