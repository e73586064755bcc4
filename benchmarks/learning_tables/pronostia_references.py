"""What any detector on the bearings must beat: rules that learn nothing, and principal components with T² and Q.

Trivial rules: always alarm, never alarm, a random score, vibration level (RMS) with a threshold from the healthy windows, and
the mean square of the standardised features, which is personal scale and nothing else. The last is the one to look at: where
it does as well as a model, the model adds nothing.

The classical baseline keeps twelve principal components; its index is T²/limit + Q/limit, each limit the quantile of the
training windows (Yue, Qin, "Reconstruction-based fault identification using a combined index", Ind. Eng. Chem. Res. 40(20), 2001).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from learning_tables.pronostia_bearings import Bearing, Scores, judge, score_lives
from learning_tables.pronostia_detectors import MARGIN, QUANTILE, fleet_thresholds, own_thresholds

__all__ = ["judge_references"]

Floats = NDArray[np.floating]
Figures = dict[str, NDArray[np.float64]]

COMPONENTS = 12


def judge_references(
    bearings: Sequence[Bearing], feature_names: Sequence[str], rng: np.random.Generator
) -> dict[str, Figures]:
    """Row name → metric → one value per bearing."""
    level = [feature_names.index(name) for name in ("h_rms", "v_rms")]

    def vibration(bearing: Bearing) -> Floats:
        return np.sqrt((bearing.life[:, level] ** 2).sum(axis=1))

    def deviation(bearing: Bearing) -> Floats:
        return (bearing.standardiser().apply(bearing.life) ** 2).mean(axis=1, dtype=np.float64)

    constant = score_lives(bearings, lambda b: np.zeros(len(b.life)))
    chance = score_lives(bearings, lambda b: rng.random(len(b.life)))
    rms = score_lives(bearings, vibration)
    squares = score_lives(bearings, deviation)
    return {
        "trivial: always": judge(constant, [-1.0] * len(bearings)),
        "trivial: never": judge(constant, [1.0] * len(bearings)),
        "trivial: random score": judge(chance, own_thresholds(chance)),
        "trivial: RMS, own threshold": judge(rms, own_thresholds(rms)),
        "trivial: RMS, fleet's threshold": judge(rms, fleet_thresholds(rms, is_personal=False)),
        "trivial: mean square of own-scaled features, own threshold": judge(squares, own_thresholds(squares)),
        "trivial: mean square of own-scaled features, fleet's threshold": judge(
            squares, fleet_thresholds(squares, is_personal=True)
        ),
        "baseline: PCA-12 + T² + Q, local": _judge_components(bearings, is_alone=True),
        "baseline: PCA-12 + T² + Q of the other bearings, own centring": _judge_components(
            bearings, is_alone=False
        ),
    }


def _judge_components(bearings: Sequence[Bearing], *, is_alone: bool) -> Figures:
    healthy = [b.standardiser().apply(b.healthy) for b in bearings]
    lives: list[Scores] = []
    limits = []
    for i, bearing in enumerate(bearings):
        rows = healthy[i] if is_alone else np.concatenate([h for j, h in enumerate(healthy) if j != i])
        index = _fit_index(rows.astype(np.float64))
        limits.append(float(np.quantile(index(rows), QUANTILE)) * MARGIN)
        lives += score_lives([bearing], lambda b, index=index: index(b.standardiser().apply(b.life)))
    return judge(lives, limits)


def _fit_index(rows: Floats) -> Callable[[Floats], Floats]:
    mean = rows.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(np.cov(rows.T))
    kept, dropped = vectors[:, -COMPONENTS:], vectors[:, :-COMPONENTS]
    variances = eigenvalues[-COMPONENTS:]

    def parts(x: Floats) -> tuple[Floats, Floats]:
        d = x.astype(np.float64) - mean
        return ((d @ kept) ** 2 / variances).sum(axis=1), ((d @ dropped) ** 2).sum(axis=1)

    inside, outside = parts(rows)
    limits = np.quantile(inside, QUANTILE), np.quantile(outside, QUANTILE)

    def index(x: Floats) -> Floats:
        within, beyond = parts(x)
        return np.asarray(within / limits[0] + beyond / limits[1])

    return index
