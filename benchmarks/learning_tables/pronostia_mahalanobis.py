"""The Mahalanobis rows of the PRONOSTIA table: the five ways to share, the check of its one choice, and what was left out.

`judge_choice` answers the reproach that the ridge was chosen with these lives in view; `judge_variants` shows what a device
could do besides and why it does not: lower its threshold below the fleet's, count held-out windows alone, smooth its scores,
mix its own covariance in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np

from learning_tables.covariance_detector import mahalanobis_autoencoder, weighted
from learning_tables.pronostia_bearings import Scores, judge
from learning_tables.pronostia_detectors import Model, fleet_spec, own_thresholds, score_int8
from learning_tables.pronostia_fleet import Figures, Fleet, Rows, fleet_limits, judge_both, personal_limits
from models.moments import Moments
from models.thresholds import personal_threshold

__all__ = ["judge_choice", "judge_mahalanobis", "judge_variants"]

RIDGE: Final = 3.0
RIDGES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
OWN_SHARE: Final = 0.25
LOWEST_BY_DEFAULT: Final = 0.5
"""`ThresholdSpec.personal_minimum` where a manifest names none."""


def judge_mahalanobis(fleet: Fleet) -> dict[str, Figures]:
    """Local, federated, federated + personal; float and int8."""
    alone = [
        _mahalanobis([rows], [held], RIDGE, is_centred=True)
        for rows, held in zip(fleet.train(fleet.own), fleet.held_out(fleet.own), strict=True)
    ]
    shared = _mahalanobis(fleet.train(fleet.shared), fleet.held_out(fleet.shared), RIDGE, is_centred=False)
    personal = _mahalanobis(fleet.train(fleet.own), fleet.held_out(fleet.own), RIDGE, is_centred=True)
    devices = len(fleet.bearings)
    return {
        **judge_both("Mahalanobis, local", fleet, fleet.own, alone, own_thresholds),
        **judge_both("Mahalanobis, federated", fleet, fleet.shared, [shared] * devices, fleet_limits),
        **judge_both(
            "Mahalanobis, federated + personal", fleet, fleet.own, [personal] * devices, personal_limits
        ),
    }


def judge_choice(fleet: Fleet) -> dict[str, Figures]:
    """Both rows of the leave-one-condition-out check, in int8."""
    bearings, devices = fleet.bearings, len(fleet.bearings)
    train, held = fleet.train(fleet.own), fleet.held_out(fleet.own)
    scored = {}
    for ridge in RIDGES:
        model = _mahalanobis(train, held, ridge, is_centred=True)
        lives = score_int8(bearings, fleet.own, [model] * devices)
        scored[ridge] = lives, judge(lives, personal_limits(lives))
    chosen: list[Figures] = []
    newcomers: list[Figures] = []
    for condition in sorted({bearing.condition for bearing in bearings}):
        inside = [i for i, bearing in enumerate(bearings) if bearing.condition == condition]
        outside = [i for i in range(devices) if i not in inside]
        best = max(RIDGES, key=lambda ridge: scored[ridge][1]["AUC"][outside].mean())
        chosen.append({metric: values[inside] for metric, values in scored[best][1].items()})
        model = _mahalanobis([train[i] for i in outside], [held[i] for i in outside], best, is_centred=True)
        lives = score_int8(bearings, fleet.own, [model] * devices)
        spec = fleet_spec([lives[i] for i in outside])
        newcomers.append(
            judge(
                [lives[i] for i in inside],
                [personal_threshold(spec, lives[i].healthy).value for i in inside],
            )
        )
    return {
        "Mahalanobis, federated + personal, ridge chosen on the other conditions, int8": _joined(chosen),
        "Mahalanobis, federated + personal, newcomers, int8": _joined(newcomers),
    }


def judge_variants(fleet: Fleet) -> dict[str, Figures]:
    """Changes to "federated + personal" that were measured and not taken, in int8."""
    devices = len(fleet.bearings)
    train, held = fleet.train(fleet.own), fleet.held_out(fleet.own)
    lives = score_int8(
        fleet.bearings, fleet.own, [_mahalanobis(train, held, RIDGE, is_centred=True)] * devices
    )
    lower = msgspec.structs.replace(fleet_spec(lives), personal_minimum=LOWEST_BY_DEFAULT)
    few = fleet_spec(
        [replace(life, healthy=life.healthy[rows]) for life, rows in zip(lives, fleet.left_out, strict=True)]
    )
    smooth = [_smoothed(life) for life in lives]
    common = _pool(train, is_centred=True)
    common = weighted(common, (1 - OWN_SHARE) / common.n)
    mixed = []
    for rows, held_rows in zip(train, held, strict=True):
        own = Moments.of(rows).centred()
        mixed.append(_model(common + weighted(own, OWN_SHARE / own.n), [held_rows], RIDGE))
    mixed_lives = score_int8(fleet.bearings, fleet.own, mixed)
    return {
        "variant: thresholds down to half the fleet's, int8": judge(
            lives, [personal_threshold(lower, life.healthy).value for life in lives]
        ),
        "variant: histogram of the held-out fifth alone, int8": judge(
            lives, [personal_threshold(few, life.healthy).value for life in lives]
        ),
        "variant: median of three scores, int8": judge(smooth, personal_limits(smooth)),
        "variant: a quarter of the own covariance, int8": judge(mixed_lives, personal_limits(mixed_lives)),
    }


def _mahalanobis(train: Sequence[Rows], held_out: Sequence[Rows], ridge: float, *, is_centred: bool) -> Model:
    return _model(_pool(train, is_centred=is_centred), held_out, ridge)


def _pool(train: Sequence[Rows], *, is_centred: bool) -> Moments:
    total = Moments.zero(train[0].shape[1])
    for rows in train:
        moments = Moments.of(rows)
        total += moments.centred() if is_centred else moments
    return total


def _model(moments: Moments, held_out: Sequence[Rows], ridge: float) -> Model:
    architecture, flat = mahalanobis_autoencoder(moments, ridge=ridge)
    return Model(architecture=architecture, flat=flat, held_out=held_out)


def _smoothed(life: Scores) -> Scores:
    def median(scores: np.ndarray) -> np.ndarray:
        padded = np.concatenate([scores[:1], scores[:1], scores])
        return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)

    return Scores(healthy=median(life.healthy), middle=median(life.middle), end=median(life.end))


def _joined(parts: Sequence[Figures]) -> Figures:
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}
