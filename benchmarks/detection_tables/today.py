"""The recipe before the fleet became a prior: Mahalanobis with a ridge of 3 from sums, one published threshold, moved by each device.

Own scale everywhere but for "pooled", which scales all rows as one machine. "local" has own sums and an own threshold; the others share sums,
int8 ranges and the quantile .999 × 1.1 of the fleet's healthy scores, which a device may raise up to twice ("+ personal"). Nothing here follows a promise.
A fifth of the healthy rows is held out as the learner does, every fifth row: ranges and threshold come from those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.assessment import RANGE_MARGIN
from aggregator.rounds.baseline import RIDGE
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
from protocol.grids import SCORE_GRID
from protocol.manifest import ThresholdSpec

__all__ = ["TODAY"]

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]

HIDDEN: Final = (16, 8, 16)
QUANTILE, MARGIN = 0.999, 1.1
HOLD_OUT_EVERY: Final = 5


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


def _fit_local(devices: Sequence[Device], kind: str) -> Promised:
    members = [_Member.of(device, fit_standardiser(device.healthy)) for device in devices]
    models = [_model([member], is_centred=True, kind=kind) for member in members]
    return _judges(
        devices,
        members,
        models,
        [_spec([m], [model]).score for m, model in zip(members, models, strict=True)],
    )


def _fit_federated(devices: Sequence[Device], kind: str) -> Promised:
    members = [_Member.of(device, fit_standardiser(device.healthy)) for device in devices]
    return _fit_shared(devices, members, kind, is_centred=True)


def _fit_pooled(devices: Sequence[Device], kind: str) -> Promised:
    scale = fit_standardiser(np.concatenate([device.healthy for device in devices]))
    return _fit_shared(devices, [_Member.of(device, scale) for device in devices], kind, is_centred=False)


def _fit_shared(
    devices: Sequence[Device], members: Sequence[_Member], kind: str, *, is_centred: bool
) -> Promised:
    model = _model(members, is_centred=is_centred, kind=kind)
    models = [model] * len(members)
    spec = _spec(members, models)
    limits = [
        personal_threshold(spec, model(np.concatenate([m.trained_on, m.held_out]))).value for m in members
    ]
    return _judges(devices, members, models, limits)


def _judges(
    devices: Sequence[Device],
    members: Sequence[_Member],
    models: Sequence[Callable[[Rows], Floats]],
    limits: Sequence[float],
) -> Promised:
    def score(scale: Standardiser, model: Callable[[Rows], Floats]) -> Score:
        return lambda rows, _: model(np.nan_to_num(scale.apply(rows)))

    judges = [
        Judge(scorer=FunctionScorer(score=score(member.scale, model)), threshold=limit)
        for member, model, limit in zip(members, models, limits, strict=True)
    ]
    assert len(judges) == len(devices)
    return lambda _: judges


def _model(members: Sequence[_Member], *, is_centred: bool, kind: str) -> Callable[[Rows], Floats]:
    """Standardised rows (n, F) → scores (n,)."""
    features = members[0].trained_on.shape[1]
    moments = Moments.zero(features)
    for member in members:
        own = Moments.of(member.trained_on)
        moments += own.centred() if is_centred else own
    architecture = Architecture(kind="dense-autoencoder", layers=(features, *HIDDEN, features))
    flat = mahalanobis_parameters(architecture, moments, ridge=RIDGE)
    if kind == "float":
        return lambda rows: np.concatenate(
            [
                reference_model.infer(architecture, flat, part)[1]
                for part in np.array_split(rows, len(rows) // 4096 + 1)
            ]
        )
    ranges = [reference_model.ranges(architecture, flat, member.held_out) for member in members]
    low = np.min([np.minimum(r[0], 0) for r in ranges], axis=0) * RANGE_MARGIN
    high = np.max([np.maximum(r[1], 0) for r in ranges], axis=0) * RANGE_MARGIN
    int8 = Int8Model(export_int8_model(architecture, flat, low, high))
    return lambda rows: np.array([int8.infer_and_score(row)[1] for row in rows])


def _spec(members: Sequence[_Member], models: Sequence[Callable[[Rows], Floats]]) -> ThresholdSpec:
    counts = [SCORE_GRID.count(model(member.held_out)) for member, model in zip(members, models, strict=True)]
    return ThresholdSpec(
        score=SCORE_GRID.quantile(np.sum(counts, axis=0), QUANTILE) * MARGIN,
        quantile=QUANTILE,
        margin=MARGIN,
        fitted_on=sum(len(member.held_out) for member in members),
        personal_minimum=1.0,
        personal_maximum=2.0,
    )


def _method(name: str, fit: Callable[[Sequence[Device], str], Promised], kind: str) -> Method:
    return Method(name=f"today: {name}, {kind}", fit=lambda devices, _: fit(devices, kind))


TODAY: Final = tuple(
    _method(name, fit, kind)
    for name, fit in (
        ("local", _fit_local),
        ("federated + personal", _fit_federated),
        ("pooled", _fit_pooled),
    )
    for kind in ("float", "int8")
)
