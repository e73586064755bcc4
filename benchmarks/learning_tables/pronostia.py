"""PRONOSTIA: seventeen bearings run to failure, each a device that detects its own end. Local, federated, personal, pooled.

Two families, both run as the product runs them: the **autoencoder** (46, 16, 8, 16, 46) trained by `models.local_training` on
LiteRT, and the **Mahalanobis** distance of `learning_tables.covariance_detector`, which needs sums only. Five ways to share:

    local                  own scale, own model, own threshold
    federated              one scale, model and threshold, from sums over the fleet
    federated + personal   own scale in front of the fleet's model; the fleet's threshold, raised where own healthy scores ask for it
    pooled                 all windows in one place, one scale; + own centring: each bearing scaled by itself first

Each float and int8; `learning_tables.pronostia_bearings` says what AUC and false alarms are, and that thresholds see healthy
windows alone. The Mahalanobis ridge is a choice: the row "ridge chosen on the other conditions" takes, for the bearings of one
operating condition, the ridge that ranks the lives of the other two best; the row "newcomers" also takes covariance, int8 ranges
and threshold from those other two conditions only, so nothing of a bearing but its own scale is known beforehand. Rows "variant"
are changes to the Mahalanobis detector that were measured and not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from learning_tables.plots import draw_plane
from learning_tables.pronostia_bearings import judge, load_bearings, load_feature_names
from learning_tables.pronostia_detectors import Model, own_thresholds, score_float
from learning_tables.pronostia_fleet import Figures, Fleet, Rows, fleet_limits, judge_both, personal_limits
from learning_tables.pronostia_mahalanobis import judge_choice, judge_mahalanobis, judge_variants
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
from models.training_model import TrainingModel

__all__ = ["draw", "measure"]

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
        fleet = Fleet(bearings, rng)
        progress(f"seed {seed}: Mahalanobis")
        figures |= judge_mahalanobis(fleet)
        figures |= judge_choice(fleet)
        figures |= judge_variants(fleet)
        progress(f"seed {seed}: autoencoder")
        trained = train_together(network, fleet.train(fleet.own), training, seed=seed)
        figures |= _judge_autoencoder(fleet, network, trained, training, seed)
        for name, values in figures.items():
            means = {metric: float(v.mean()) for metric, v in values.items()}
            means[f"{FALSE_ALARMS}, worst bearing"] = float(values[FALSE_ALARMS].max())
            collected.setdefault(name, []).append(means)
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
    """What detects at all, in the plane of false alarms and AUC; the corner of the target is shaded."""
    shown = [row for row in rows if not row.name.endswith("float") and row.mean("AUC") > 0.8]
    draw_plane(shown, axes, FALSE_ALARMS, "AUC")
    axes.axvspan(0, TARGETS[FALSE_ALARMS].value, color="#4878a8", alpha=0.1)
    axes.axhline(TARGETS["AUC"].value, linestyle="--", linewidth=0.8, color="#a03020")


def _judge_autoencoder(
    fleet: Fleet, network: TrainingModel, personal: Rows, training: Training, seed: int
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
    pooled = train_in_one_place(network, np.concatenate(shared), training, seed=seed)
    centred = train_in_one_place(network, np.concatenate(own), training, seed=seed)
    tuned = [
        as_model(fine_tune(network, personal, rows, training, seed=seed), [held])
        for rows, held in zip(own, own_held, strict=True)
    ]
    tuned_lives = score_float(fleet.bearings, fleet.own, tuned)
    return {
        **judge_both("autoencoder, local", fleet, fleet.own, alone, own_thresholds),
        **judge_both(
            "autoencoder, federated",
            fleet,
            fleet.shared,
            [as_model(together, shared_held)] * devices,
            fleet_limits,
        ),
        **judge_both(
            "autoencoder, federated + personal",
            fleet,
            fleet.own,
            [as_model(personal, own_held)] * devices,
            personal_limits,
        ),
        "autoencoder, federated, fine-tuned, float": judge(tuned_lives, personal_limits(tuned_lives)),
        **judge_both(
            "autoencoder, pooled",
            fleet,
            fleet.shared,
            [as_model(pooled, shared_held)] * devices,
            fleet_limits,
        ),
        **judge_both(
            "autoencoder, pooled + own centring",
            fleet,
            fleet.own,
            [as_model(centred, own_held)] * devices,
            fleet_limits,
        ),
    }
