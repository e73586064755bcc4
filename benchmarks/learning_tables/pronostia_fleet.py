"""The bearings of one seed as a fleet: under their own scales and under a common one, split as the learner splits them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from learning_tables.pronostia_bearings import Bearing, Scores, judge, split_healthy
from learning_tables.pronostia_detectors import Model, fleet_thresholds, score_float, score_int8
from models.standardiser import Standardiser, fit_standardiser

__all__ = ["Figures", "Fleet", "Rows", "fleet_limits", "judge_both", "personal_limits"]

Rows = NDArray[np.float32]

Figures = Mapping[str, NDArray[np.float64]]
"""Metric → one value per bearing."""


class Fleet:
    """`own` and `shared` are a scale per bearing; `train` and `held_out` are healthy windows under given scales."""

    def __init__(self, bearings: Sequence[Bearing], rng: np.random.Generator) -> None:
        self.bearings = bearings
        self.trained_on, self.left_out = split_healthy(bearings, rng)
        self.own = [bearing.standardiser() for bearing in bearings]
        # What sums of the raw features and of their squares give the cloud.
        shared = fit_standardiser(np.concatenate([bearing.healthy for bearing in bearings]))
        self.shared = [shared] * len(bearings)

    def train(self, scales: Sequence[Standardiser]) -> list[Rows]:
        """What each bearing trains on."""
        return self._rows(scales, self.trained_on)

    def held_out(self, scales: Sequence[Standardiser]) -> list[Rows]:
        """What each bearing reports int8 ranges of."""
        return self._rows(scales, self.left_out)

    def _rows(self, scales: Sequence[Standardiser], chosen: Sequence[NDArray[np.intp]]) -> list[Rows]:
        return [
            scale.apply(bearing.healthy[rows])
            for scale, bearing, rows in zip(scales, self.bearings, chosen, strict=True)
        ]


def judge_both(
    name: str,
    fleet: Fleet,
    scales: Sequence[Standardiser],
    models: Sequence[Model],
    thresholds: Callable[[Sequence[Scores]], Sequence[float]],
) -> dict[str, Figures]:
    """Row → figures, as float and as int8; `thresholds` turns the bearings' scores into their thresholds."""
    figures: dict[str, Figures] = {}
    for kind, score in (("float", score_float), ("int8", score_int8)):
        lives = score(fleet.bearings, scales, models)
        figures[f"{name}, {kind}"] = judge(lives, thresholds(lives))
    return figures


def fleet_limits(lives: Sequence[Scores]) -> list[float]:
    """The fleet's threshold for all."""
    return fleet_thresholds(lives, is_personal=False)


def personal_limits(lives: Sequence[Scores]) -> list[float]:
    """The fleet's threshold, moved by each bearing within the published bounds."""
    return fleet_thresholds(lives, is_personal=True)
