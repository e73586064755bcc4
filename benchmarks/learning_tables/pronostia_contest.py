"""What the product's own comparison chooses among the bearings' detectors, and how good that choice really is.

Before the gate a fleet compares contenders of one layout without a single fault: by how well their scores part disturbed windows from aged ones
(`models.perturbations`, `aggregator.rounds.contest`). Here the lives are known, so the comparison can be compared: each contender's power,
in all and for each kind of disturbance, beside its AUC and false alarms, in int8. All have the autoencoder's layout and take part
in the contest as a fleet would hold it: counts over held-out windows, summed over the bearings. The champion is the network under a
threshold that no longer holds, so that the contest is among the others.

The row "chosen on the other conditions" holds the contest on the bearings of two operating conditions and judges its winner on the third.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from aggregator.rounds.baseline import RIDGE
from aggregator.rounds.contest import detection_power, judge_contest
from aggregator.rounds.runs import ContestRecord
from learning_tables.pronostia_bearings import judge, score_lives
from learning_tables.pronostia_detectors import Model, score_int8
from learning_tables.pronostia_fleet import Figures, Fleet, Rows, personal_limits
from learning_tables.pronostia_network import AUTOENCODER
from models.contest import score_contenders
from models.linear_baseline import mahalanobis_parameters, principal_component_parameters
from models.moments import Moments
from models.perturbations import DISTURBANCES, age, disturb, wander
from models.training_model import TrainingModel
from protocol.grids import SCORE_GRID
from protocol.questions import contest_layout

__all__ = ["POWER", "judge_contenders"]

POWER: Final = "power"
CHOSEN: Final = "contest: chosen on the other conditions, int8"


def judge_contenders(
    fleet: Fleet, network: TrainingModel, trained: Rows, seed: int
) -> tuple[dict[str, Figures], str]:
    """Row → figures of the contenders with `trained` as the network, and who wins."""
    moments = Moments.zero(AUTOENCODER.feature_count)
    for rows in fleet.train(fleet.own):
        moments += Moments.of(rows).centred()
    contenders = {
        "champion": trained,
        "mahalanobis_ridge": mahalanobis_parameters(AUTOENCODER, moments, ridge=RIDGE),
        "mahalanobis": mahalanobis_parameters(AUTOENCODER, moments),
        "network": trained,
        "principal_components": principal_component_parameters(AUTOENCODER, moments),
    }
    # A device's buffer is in order of time.
    held_out = [
        scale.apply(bearing.healthy[np.sort(rows)])
        for scale, bearing, rows in zip(fleet.own, fleet.bearings, fleet.left_out, strict=True)
    ]
    counts = [
        contest_layout().pack(score_contenders(network, contenders, rows, seed=seed)) for rows in held_out
    ]
    verdict = _judged(counts)
    figures: dict[str, Figures] = {}
    judged: dict[str, Figures] = {}
    for name in contenders.keys() - {"champion"}:
        model = Model(architecture=AUTOENCODER, flat=contenders[name], held_out=held_out)
        lives = score_int8(fleet.bearings, fleet.own, [model] * len(fleet.bearings))
        judged[name] = judge(lives, personal_limits(lives))
        single = {
            POWER: verdict.powers[name],
            **_powers_by_kind(model, held_out, seed),
            **_optimism(model, fleet.train(fleet.own)),
        }
        everywhere = {what: np.full(len(fleet.bearings), value) for what, value in single.items()}
        figures[f"contest: {name.replace('_', ' ')}, int8"] = {**judged[name], **everywhere}
    conditions = np.array([bearing.condition for bearing in fleet.bearings])
    chosen: dict[str, list[np.ndarray]] = {}
    for condition in sorted(set(conditions)):
        others = [one for one, where in zip(counts, conditions, strict=True) if where != condition]
        for metric, values in judged[_judged(others).winner].items():
            chosen.setdefault(metric, []).append(values[conditions == condition])
    figures[CHOSEN] = {
        **{metric: np.concatenate(parts) for metric, parts in chosen.items()},
        "wander of held-out windows": np.array([wander(rows) for rows in held_out]),
        "mid-life's distance from the healthy mean": _mid_life_distances(fleet),
    }
    return dict(sorted(figures.items())), verdict.winner


def _judged(counts: Sequence[np.ndarray]) -> ContestRecord:
    # No score is below 0: the champion's threshold never holds, and it has to be replaced.
    total = np.sum([one.astype(np.float64) for one in counts], axis=0)
    return judge_contest(total, champion_threshold=0.0, maximum_alarm_rate=0.0)


def _powers_by_kind(model: Model, held_out: Sequence[Rows], seed: int) -> Mapping[str, float]:
    rng = np.random.default_rng(seed)
    aged = np.zeros((len(DISTURBANCES), SCORE_GRID.bins))
    disturbed = np.zeros_like(aged)
    for rows in held_out:
        copies = age(rows, rng)
        for counts, made in ((aged, copies), (disturbed, disturb(copies, rng))):
            for kind, part in enumerate(np.split(made, len(DISTURBANCES))):
                counts[kind] += SCORE_GRID.count(model.float_scores(part))
    return {
        f"{POWER}, {kind}": detection_power(aged.sum(axis=0), disturbed[index])
        for index, kind in enumerate(DISTURBANCES)
    }


def _optimism(model: Model, trained_on: Sequence[Rows]) -> Mapping[str, float]:
    """How much higher held-out windows score than those that the model has seen: what the fleet's threshold is too low by."""
    seen = np.concatenate([model.float_scores(rows) for rows in trained_on])
    new = np.concatenate([model.float_scores(rows) for rows in model.held_out])
    return {
        "held-out over trained-on, mean score": float(new.mean() / seen.mean()),
        "held-out over trained-on, 90th percentile": float(np.quantile(new, 0.9) / np.quantile(seen, 0.9)),
    }


def _mid_life_distances(fleet: Fleet) -> np.ndarray:
    """Root mean square over the features, in healthy deviations, of how far each bearing's mid-life mean is from its healthy one."""
    scales = dict(zip((bearing.name for bearing in fleet.bearings), fleet.own, strict=True))
    lives = score_lives(fleet.bearings, lambda bearing: scales[bearing.name].apply(bearing.life))
    return np.array([np.sqrt(np.square(life.middle.mean(0) - life.healthy.mean(0)).mean()) for life in lives])
