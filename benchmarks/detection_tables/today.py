"""The recipe before the fleet became a prior: one model of sums or of averaged weights, one published threshold, moved by each device.

    Mahalanobis    ridge of 3, in the layout of the network below (`models.linear_baseline`), from sums
    autoencoder    (F, 16, 8, 16, F), federated averaging over all devices, or as many passes of each alone

Own scale everywhere but for "pooled", which scales all rows as one machine. "local" has its own model and its own threshold; the others share the
model, its int8 ranges and the quantile .999 × 1.1 of the fleet's healthy scores, which a device may raise up to twice ("+ personal"). Nothing
here follows a promise. A fifth of the healthy rows is held out as the learner does it, every fifth row: ranges and threshold come from those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import numpy as np
from learning_tables.pronostia_network import (
    Training,
    load_training_model,
    train_in_one_place,
    train_together,
)
from numpy.typing import NDArray

from aggregator.rounds.assessment import RANGE_MARGIN
from detection_tables.devices import Device
from detection_tables.methods import FunctionScorer, Judge, Method, Promised, Score
from models import reference_model
from models.architecture import Architecture
from models.export import export_int8_model
from models.int8_model import Int8Model
from models.linear_baseline import mahalanobis_parameters
from models.moments import Moments
from models.standardiser import Standardiser, fit_standardiser
from models.thresholds import personal_threshold
from models.training_model import TrainingModel
from protocol.grids import SCORE_GRID
from protocol.manifest import ThresholdSpec

__all__ = ["TODAY"]

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]
Model: TypeAlias = Callable[[Rows], Floats]
"""Standardised rows (n, F) → scores (n,)."""

HIDDEN: Final = (16, 8, 16)
QUANTILE, MARGIN = 0.999, 1.1
HOLD_OUT_EVERY: Final = 5
RIDGE: Final = 3.0
"""Squared healthy deviations added to the covariance: chosen on bearings."""
FLOAT_ROWS: Final = 4096
"""Scored at a time."""


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One device: its scale, and its healthy rows in it, held-out ones apart."""

    scale: Standardiser
    trained_on: Rows
    held_out: Rows

    @classmethod
    def of(cls, device: Device, scale: Standardiser) -> _Member:
        rows = np.nan_to_num(scale.apply(device.healthy))
        is_held = np.arange(len(rows)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
        return cls(scale=scale, trained_on=rows[~is_held], held_out=rows[is_held] if is_held.any() else rows)


Learn: TypeAlias = Callable[[Sequence[_Member], int], NDArray[np.float32]]
"""Members and a seed → flat parameters of the layout of `_architecture`."""


def _fit_local(devices: Sequence[Device], learn: Learn, kind: str, seed: int) -> Promised:
    members = [_Member.of(device, fit_standardiser(device.healthy)) for device in devices]
    models = [_model([member], learn([member], seed), kind) for member in members]
    limits = [_spec([member], [model]).score for member, model in zip(members, models, strict=True)]
    return _judges(members, models, limits)


def _fit_federated(devices: Sequence[Device], learn: Learn, kind: str, seed: int) -> Promised:
    members = [_Member.of(device, fit_standardiser(device.healthy)) for device in devices]
    return _fit_shared(members, learn, kind, seed)


def _fit_pooled(devices: Sequence[Device], learn: Learn, kind: str, seed: int) -> Promised:
    scale = fit_standardiser(np.concatenate([device.healthy for device in devices]))
    return _fit_shared([_Member.of(device, scale) for device in devices], learn, kind, seed)


def _fit_shared(members: Sequence[_Member], learn: Learn, kind: str, seed: int) -> Promised:
    model = _model(members, learn(members, seed), kind)
    models = [model] * len(members)
    spec = _spec(members, models)
    healthy = [model(np.concatenate([member.trained_on, member.held_out])) for member in members]
    return _judges(members, models, [personal_threshold(spec, scores).value for scores in healthy])


def _judges(members: Sequence[_Member], models: Sequence[Model], limits: Sequence[float]) -> Promised:
    def score(scale: Standardiser, model: Model) -> Score:
        return lambda rows, _: model(np.nan_to_num(scale.apply(rows)))

    judges = [
        Judge(scorer=FunctionScorer(score=score(member.scale, model)), threshold=limit)
        for member, model, limit in zip(members, models, limits, strict=True)
    ]
    return lambda _: judges


def _architecture(members: Sequence[_Member]) -> Architecture:
    features = members[0].trained_on.shape[1]
    return Architecture(kind="dense-autoencoder", layers=(features, *HIDDEN, features))


def _mahalanobis(members: Sequence[_Member], _: int) -> NDArray[np.float32]:
    """From moments about each device's own mean."""
    moments = [Moments.of(member.trained_on).centred() for member in members]
    return mahalanobis_parameters(_architecture(members), sum(moments[1:], moments[0]), ridge=RIDGE)


def _pooled_mahalanobis(members: Sequence[_Member], _: int) -> NDArray[np.float32]:
    rows = np.concatenate([member.trained_on for member in members])
    return mahalanobis_parameters(_architecture(members), Moments.of(rows), ridge=RIDGE)


@cache
def _graph(architecture: Architecture) -> TrainingModel:
    return load_training_model(architecture)


def _averaged_network(members: Sequence[_Member], seed: int) -> NDArray[np.float32]:
    rows = [member.trained_on for member in members]
    return train_together(_graph(_architecture(members)), rows, Training(), seed=seed)


def _pooled_network(members: Sequence[_Member], seed: int) -> NDArray[np.float32]:
    rows = np.concatenate([member.trained_on for member in members])
    return train_in_one_place(_graph(_architecture(members)), rows, Training(), seed=seed)


def _model(members: Sequence[_Member], flat: NDArray[np.float32], kind: str) -> Model:
    architecture = _architecture(members)
    if kind == "float":
        return lambda rows: np.concatenate(
            [
                reference_model.infer(architecture, flat, part)[1]
                for part in np.array_split(rows, len(rows) // FLOAT_ROWS + 1)
            ]
        )
    ranges = [reference_model.ranges(architecture, flat, member.held_out) for member in members]
    low = np.min([np.minimum(r[0], 0) for r in ranges], axis=0) * RANGE_MARGIN
    high = np.max([np.maximum(r[1], 0) for r in ranges], axis=0) * RANGE_MARGIN
    int8 = Int8Model(export_int8_model(architecture, flat, low, high))
    return lambda rows: np.array([int8.infer_and_score(row)[1] for row in rows])


def _spec(members: Sequence[_Member], models: Sequence[Model]) -> ThresholdSpec:
    counts = [SCORE_GRID.count(model(member.held_out)) for member, model in zip(members, models, strict=True)]
    return ThresholdSpec(
        score=SCORE_GRID.quantile(np.sum(counts, axis=0), QUANTILE) * MARGIN,
        quantile=QUANTILE,
        margin=MARGIN,
        fitted_on=sum(len(member.held_out) for member in members),
        personal_minimum=1.0,
        personal_maximum=2.0,
    )


def _method(
    name: str, fit: Callable[..., Promised], learn: Learn, kind: str, *, is_random: bool = False
) -> Method:
    return Method(
        name=f"today: {name}, {kind}",
        fit=lambda devices, seed: fit(devices, learn, kind, seed),
        is_random=is_random,
    )


KINDS: Final = ("float", "int8")
TODAY: Final = (
    *(_method("Mahalanobis, local", _fit_local, _mahalanobis, kind) for kind in KINDS),
    *(_method("Mahalanobis, federated + personal", _fit_federated, _mahalanobis, kind) for kind in KINDS),
    *(_method("Mahalanobis, pooled", _fit_pooled, _pooled_mahalanobis, kind) for kind in KINDS),
    *(_method("autoencoder, local", _fit_local, _pooled_network, kind, is_random=True) for kind in KINDS),
    *(
        _method("autoencoder, federated + personal", _fit_federated, _averaged_network, kind, is_random=True)
        for kind in KINDS
    ),
)
