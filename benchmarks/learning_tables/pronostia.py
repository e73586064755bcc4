"""PRONOSTIA: seventeen bearings run to failure, each a device that detects its own end. Local, federated, personal, pooled.

Two families, both run as the product runs them: the **autoencoder** (46, 16, 8, 16, 46) trained by `models.local_training` on
LiteRT, and the **Mahalanobis** distance of `models.covariance_detector`, which needs sums only. Five ways to share:

    local                  own scale, own model, own threshold
    federated              one scale, model and threshold, from sums over the fleet
    federated + personal   own scale in front of the fleet's model; the fleet's threshold, raised where own healthy scores ask for it
    pooled                 all windows in one place, one scale; + own centring: each bearing scaled by itself first

Each float and int8; `learning_tables.pronostia_bearings` says what AUC and false alarms are, and that thresholds see healthy
windows alone. The Mahalanobis ridge is a choice: the row "ridge chosen on the other conditions" takes, for the bearings of one
operating condition, the ridge that ranks the lives of the other two best; the row "newcomers" also takes covariance, int8 ranges
and threshold from those other two conditions only, so nothing of a bearing but its own scale is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from learning_tables.plots import draw_plane
from learning_tables.pronostia_bearings import (
    Bearing,
    Scores,
    judge,
    load_bearings,
    load_feature_names,
    split_healthy,
)
from learning_tables.pronostia_detectors import (
    Model,
    fleet_spec,
    fleet_thresholds,
    own_thresholds,
    score_float,
    score_int8,
)
from learning_tables.pronostia_network import (
    AUTOENCODER,
    Training,
    fine_tune,
    load_training_model,
    train_in_one_place,
    train_together,
)
from learning_tables.pronostia_references import judge_references
from learning_tables.report import Bound, Row
from models.covariance_detector import Moments, mahalanobis_autoencoder
from models.standardiser import Standardiser
from models.thresholds import effective_threshold
from models.training_model import TrainingModel

__all__ = ["draw", "measure"]

Rows = NDArray[np.float32]
Figures = Mapping[str, NDArray[np.float64]]

RIDGE: Final = 3.0
RIDGES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
FALSE_ALARMS: Final = "mid-life false alarms"

TARGETS: Final = {
    "AUC": Bound(value=0.94, source="issue 4: at least"),
    FALSE_ALARMS: Bound(value=0.05, source="issue 4: at most"),
}
NOTES: Final = {
    "Mahalanobis, federated": "pooled is the same: sums are exact",
    "Mahalanobis, federated + personal": "pooled + own centring is the same but for the threshold, which is then not personal",
    "autoencoder, federated, fine-tuned": "float only: a device has no quantizer",
    "baseline: PCA-12 + T² + Q, local": "design page: AUC .949, false alarms 48.5 %",
    "baseline: PCA-12 + T² + Q of the other bearings, own centring": "design page: AUC .935, false alarms 9.0 %",
}


def measure(
    seeds: Sequence[int], data: Path, *, is_quick: bool, progress: Callable[[str], None]
) -> list[Row]:
    """All rows; a seed splits healthy windows into trained-on and held-out, starts the networks and shuffles."""
    bearings, names = load_bearings(data), load_feature_names(data)
    progress("building the training graph")
    network = load_training_model()
    training = Training(rounds=2) if is_quick else Training()
    collected: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        figures = judge_references(bearings, names, rng)
        train, held_out = split_healthy(bearings, rng)
        fleet = _Fleet(bearings, train, held_out)
        progress(f"seed {seed}: Mahalanobis")
        figures |= _judge_mahalanobis(fleet)
        figures |= _judge_choice(fleet)
        progress(f"seed {seed}: autoencoder")
        figures |= _judge_autoencoder(fleet, network, training, seed)
        for name, values in figures.items():
            collected.setdefault(name, []).append({m: float(v.mean()) for m, v in values.items()})
    return [
        Row(
            name=name,
            metrics={metric: [run[metric] for run in runs] for metric in runs[0]},
            bounds=TARGETS if "personal" in name and name.endswith("int8") else {},
            note=NOTES.get(name.removesuffix(", float"), ""),
        )
        for name, runs in collected.items()
    ]


def draw(rows: Sequence[Row], axes: Any) -> None:
    """Each row in the plane of false alarms and AUC; the corner of the target is shaded."""
    draw_plane([row for row in rows if not row.name.endswith("float")], axes, FALSE_ALARMS, "AUC")
    axes.axvspan(0, TARGETS[FALSE_ALARMS].value, ymin=0, color="#4878a8", alpha=0.1)
    axes.axhline(TARGETS["AUC"].value, linestyle="--", linewidth=0.8, color="#a03020")


class _Fleet:
    """The bearings of one seed under their own scales and under the fleet's, split into trained-on and held-out."""

    def __init__(
        self,
        bearings: Sequence[Bearing],
        train: Sequence[NDArray[np.intp]],
        held_out: Sequence[NDArray[np.intp]],
    ) -> None:
        self.bearings = bearings
        self._train, self._held_out = train, held_out
        self.own = [bearing.standardiser() for bearing in bearings]
        # What sums of the raw features and of their squares give the cloud.
        shared = Standardiser.fit(np.concatenate([bearing.healthy for bearing in bearings]))
        self.shared = [shared] * len(bearings)

    def train(self, scales: Sequence[Standardiser]) -> list[Rows]:
        return self._rows(scales, self._train)

    def held_out(self, scales: Sequence[Standardiser]) -> list[Rows]:
        return self._rows(scales, self._held_out)

    def _rows(self, scales: Sequence[Standardiser], chosen: Sequence[NDArray[np.intp]]) -> list[Rows]:
        return [
            scale.apply(bearing.healthy[rows])
            for scale, bearing, rows in zip(scales, self.bearings, chosen, strict=True)
        ]


def _judge_both(
    name: str,
    fleet: _Fleet,
    scales: Sequence[Standardiser],
    models: Sequence[Model],
    thresholds: Callable[[Sequence[Scores]], Sequence[float]],
) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for kind, score in (("float", score_float), ("int8", score_int8)):
        lives = score(fleet.bearings, scales, models)
        figures[f"{name}, {kind}"] = judge(lives, thresholds(lives))
    return figures


def _judge_mahalanobis(fleet: _Fleet) -> dict[str, Figures]:
    alone = [
        _mahalanobis([rows], [held], RIDGE, is_centred=True)
        for rows, held in zip(fleet.train(fleet.own), fleet.held_out(fleet.own), strict=True)
    ]
    shared = _mahalanobis(fleet.train(fleet.shared), fleet.held_out(fleet.shared), RIDGE, is_centred=False)
    personal = _mahalanobis(fleet.train(fleet.own), fleet.held_out(fleet.own), RIDGE, is_centred=True)
    devices = len(fleet.bearings)
    return {
        **_judge_both("Mahalanobis, local", fleet, fleet.own, alone, own_thresholds),
        **_judge_both("Mahalanobis, federated", fleet, fleet.shared, [shared] * devices, _common),
        **_judge_both("Mahalanobis, federated + personal", fleet, fleet.own, [personal] * devices, _personal),
    }


def _judge_choice(fleet: _Fleet) -> dict[str, Figures]:
    """Both rows of the leave-one-condition-out check, in int8."""
    bearings, devices = fleet.bearings, len(fleet.bearings)
    train, held = fleet.train(fleet.own), fleet.held_out(fleet.own)
    scored = {}
    for ridge in RIDGES:
        model = _mahalanobis(train, held, ridge, is_centred=True)
        lives = score_int8(bearings, fleet.own, [model] * devices)
        scored[ridge] = lives, judge(lives, _personal(lives))
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
                [effective_threshold(spec, lives[i].healthy) for i in inside],
            )
        )
    return {
        "Mahalanobis, federated + personal, ridge chosen on the other conditions, int8": _joined(chosen),
        "Mahalanobis, federated + personal, newcomers, int8": _joined(newcomers),
    }


def _judge_autoencoder(
    fleet: _Fleet, network: TrainingModel, training: Training, seed: int
) -> dict[str, Figures]:
    devices = len(fleet.bearings)

    def as_model(flat: Rows, held: Sequence[Rows]) -> Model:
        return Model(architecture=AUTOENCODER, flat=flat, held_out=held)

    own, own_held = fleet.train(fleet.own), fleet.held_out(fleet.own)
    shared, shared_held = fleet.train(fleet.shared), fleet.held_out(fleet.shared)
    alone = [
        as_model(train_in_one_place(network, rows, training, seed=seed), [held])
        for rows, held in zip(own, own_held, strict=True)
    ]
    together = train_together(network, shared, training, seed=seed)
    personal = train_together(network, own, training, seed=seed)
    pooled = train_in_one_place(network, np.concatenate(shared), training, seed=seed)
    centred = train_in_one_place(network, np.concatenate(own), training, seed=seed)
    tuned = [
        as_model(fine_tune(network, personal, rows, training, seed=seed), [held])
        for rows, held in zip(own, own_held, strict=True)
    ]
    tuned_lives = score_float(fleet.bearings, fleet.own, tuned)
    return {
        **_judge_both("autoencoder, local", fleet, fleet.own, alone, own_thresholds),
        **_judge_both(
            "autoencoder, federated",
            fleet,
            fleet.shared,
            [as_model(together, shared_held)] * devices,
            _common,
        ),
        **_judge_both(
            "autoencoder, federated + personal",
            fleet,
            fleet.own,
            [as_model(personal, own_held)] * devices,
            _personal,
        ),
        "autoencoder, federated, fine-tuned, float": judge(tuned_lives, _personal(tuned_lives)),
        **_judge_both(
            "autoencoder, pooled", fleet, fleet.shared, [as_model(pooled, shared_held)] * devices, _common
        ),
        **_judge_both(
            "autoencoder, pooled + own centring",
            fleet,
            fleet.own,
            [as_model(centred, own_held)] * devices,
            _common,
        ),
    }


def _mahalanobis(train: Sequence[Rows], held_out: Sequence[Rows], ridge: float, *, is_centred: bool) -> Model:
    total = Moments.zero(train[0].shape[1])
    for rows in train:
        moments = Moments.of(rows)
        total += moments.centred() if is_centred else moments
    architecture, flat = mahalanobis_autoencoder(total, ridge=ridge)
    return Model(architecture=architecture, flat=flat, held_out=held_out)


def _common(lives: Sequence[Scores]) -> list[float]:
    return fleet_thresholds(lives, is_personal=False)


def _personal(lives: Sequence[Scores]) -> list[float]:
    return fleet_thresholds(lives, is_personal=True)


def _joined(parts: Sequence[Figures]) -> Figures:
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}
