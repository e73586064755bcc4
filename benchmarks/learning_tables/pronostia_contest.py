"""What the product's own comparison would have chosen among the bearings' detectors, and how good that choice really is.

Before the gate a fleet compares contenders of one layout without a single fault: by the probability that a disturbed healthy window
scores above an aged one (`models.perturbations`, `aggregator.rounds.contest`). Here the lives are known, so the comparison can be compared: each
contender's power beside its AUC and false alarms, in int8. All four have the autoencoder's layout and take part in the contest as a
fleet would hold it: counts over held-out windows, summed over the bearings.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from aggregator.rounds.contest import judge_contest
from learning_tables.pronostia_bearings import judge
from learning_tables.pronostia_detectors import MARGIN, QUANTILE, Model, score_int8
from learning_tables.pronostia_fleet import Figures, Fleet, Rows, personal_limits
from learning_tables.pronostia_network import AUTOENCODER
from models.contest import score_contenders
from models.covariance_detector import Moments
from models.linear_baseline import mahalanobis_parameters, principal_component_parameters
from models.training_model import TrainingModel
from protocol.questions import contest_layout

__all__ = ["POWER", "judge_contenders"]

POWER: Final = "contest power"
RIDGE: Final = 3.0
LARGEST_ALARM_RATE: Final = 0.01


def judge_contenders(
    fleet: Fleet, network: TrainingModel, trained: Rows, seed: int
) -> tuple[dict[str, Figures], str]:
    """Row → figures of the four contenders with `trained` as the network, and the verdict in the aggregator's words."""
    moments = Moments.zero(AUTOENCODER.feature_count)
    for rows in fleet.train(fleet.own):
        moments += Moments.of(rows).centred()
    held_out = fleet.held_out(fleet.own)
    contenders = {
        # The champion's place is taken by the detector of the table, written into the same layout.
        "champion": mahalanobis_parameters(AUTOENCODER, moments, ridge=RIDGE),
        "network": trained,
        "mahalanobis": mahalanobis_parameters(AUTOENCODER, moments),
        "principal_components": principal_component_parameters(AUTOENCODER, moments),
    }
    total = np.zeros(contest_layout().total)
    for rows in held_out:
        total += contest_layout().pack(score_contenders(network, contenders, rows, seed=seed))
    champion = Model(architecture=AUTOENCODER, flat=contenders["champion"], held_out=held_out)
    healthy = np.concatenate([champion.float_scores(rows) for rows in held_out])
    verdict = judge_contest(
        total,
        champion_threshold=float(np.quantile(healthy, QUANTILE)) * MARGIN,
        maximum_alarm_rate=LARGEST_ALARM_RATE,
    )
    figures: dict[str, Figures] = {}
    for name, flat in contenders.items():
        model = Model(architecture=AUTOENCODER, flat=flat, held_out=held_out)
        lives = score_int8(fleet.bearings, fleet.own, [model] * len(fleet.bearings))
        words = f"mahalanobis, ridge {RIDGE:g}" if name == "champion" else name.replace("_", " ")
        power = np.full(len(fleet.bearings), verdict.powers[name])
        figures[f"contest: {words}, int8"] = {**judge(lives, personal_limits(lives)), POWER: power}
    return figures, verdict.winner
