"""How the recordings of SKAB come to a score and to alarms: whose model, whose threshold, float or int8.

    rows ─► int8 or float autoencoder ─► score ─► log(1 + score) ─► exponential average ─► over the recording's threshold?

Each recording is a device: own scale always; its model is its own (`local`) or one for all from what can be summed
(`federated`); its threshold is a quantile of its own 400 training scores times a margin, both in the averaged logarithm. int8
ranges come from training rows, are widened to the common grid as the cloud does, and every row goes through
`models.int8_model.Int8Model` by itself, as on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from learning_tables.covariance_detector import (
    hotelling_autoencoder,
    mahalanobis_autoencoder,
    pca_autoencoder,
)
from learning_tables.pronostia_detectors import Model
from learning_tables.skab_recordings import Prepared, confusion, exponential_average
from models.moments import Moments

__all__ = [
    "AlarmRule",
    "ClosedForm",
    "Sharing",
    "alarm_counts",
    "closed_form_models",
    "score_float",
    "score_int8",
]

Floats = NDArray[np.floating]
Sharing = Literal["local", "federated"]
ClosedForm = Literal["Mahalanobis", "Hotelling T²", "PCA (Q)"]

RIDGE: Final = 0.1
"""Squared standardised units: a direction that varies less than a third of a deviation must not decide."""

COMPONENTS: Final = 2
"""Of six sensors: what the first two miss still speaks of four."""


@dataclass(frozen=True, kw_only=True)
class AlarmRule:
    """From raw scores to alarms.

    Args:
        span: rows of the exponential average over the logarithms.
        quantile: of the training scores.
        margin: what the quantile is multiplied with.
        is_shared: one quantile of all recordings' training scores instead of each recording's own.
    """

    span: float = 20.0
    quantile: float = 0.99
    margin: float = 1.2
    is_shared: bool = False


def closed_form_models(
    kind: ClosedForm, fleet: Sequence[Prepared], sharing: Sharing, *, ridge: float = RIDGE
) -> list[Model]:
    """A model per recording, the same object for all where it is federated; nothing but sums of training rows enters."""
    moments = [Moments.of(prepared.training) for prepared in fleet]
    if sharing == "local":
        return [
            _closed_form(kind, own, [prepared.training], ridge)
            for own, prepared in zip(moments, fleet, strict=True)
        ]
    total = Moments.zero(fleet[0].rows.shape[1])
    for own in moments:
        total += own
    return [_closed_form(kind, total, [prepared.training for prepared in fleet], ridge)] * len(fleet)


def score_float(fleet: Sequence[Prepared], models: Sequence[Model]) -> list[Floats]:
    """Scores (n,) of all rows of each recording under its float model."""
    return [model.float_scores(prepared.rows) for prepared, model in zip(fleet, models, strict=True)]


def score_int8(fleet: Sequence[Prepared], models: Sequence[Model]) -> list[Floats]:
    """The same under the int8 models; each model is built once."""
    built: dict[int, Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], float]]] = {}
    for model in models:
        if id(model) not in built:
            built[id(model)] = model.int8_model().infer_and_score
    return [
        np.array([built[id(model)](row)[1] for row in prepared.rows])
        for prepared, model in zip(fleet, models, strict=True)
    ]


def alarm_counts(fleet: Sequence[Prepared], scores: Sequence[Floats], rule: AlarmRule) -> NDArray[np.float64]:
    """(TP, FP, FN, TN) of each recording's judged rows, shape (recordings, 4); thresholds see training rows only."""
    averaged = [exponential_average(np.log1p(score), rule.span) for score in scores]
    training = [score[: prepared.train_rows] for prepared, score in zip(fleet, averaged, strict=True)]
    shared = float(np.quantile(np.concatenate(training), rule.quantile))
    limits = [shared if rule.is_shared else float(np.quantile(own, rule.quantile)) for own in training]
    return np.array(
        [
            confusion(
                score[prepared.train_rows :] > limit * rule.margin,
                prepared.is_anomalous[prepared.train_rows :],
            )
            for prepared, score, limit in zip(fleet, averaged, limits, strict=True)
        ]
    )


def _closed_form(kind: ClosedForm, moments: Moments, held_out: Sequence[Floats], ridge: float) -> Model:
    if kind == "Mahalanobis":
        architecture, flat = mahalanobis_autoencoder(moments, ridge=ridge)
    elif kind == "Hotelling T²":
        architecture, flat = hotelling_autoencoder(moments, components=COMPONENTS)
    else:
        architecture, flat = pca_autoencoder(moments, components=COMPONENTS)
    return Model(architecture=architecture, flat=flat, held_out=held_out)
