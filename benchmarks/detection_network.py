"""Does an autoencoder see more than the mixture, at the threshold that the same budget gives? One JSON object a set.

    python benchmarks/detection_network.py

Sets: machines whose sensors lie on a curved surface of two hidden causes (what a network is for), PRONOSTIA and SKAB (FEDGE_DATA). No
label is read. Both learn from the first four fifths of each device's healthy rows and keep 1 false alarm in 1,000 windows by an openings
curve; of the last fifth windows are slightly disturbed, two in a row, and the share seen is compared device by device; openings on the
healthy rows that follow say whether either kept its promise. The network (F/3
values in its middle) learns from all devices' rows pooled, the best that federated averaging can do; its curve is counted on the fourth
fifth by a network of the first three, in each device's own unit. A difference has the 95 % interval of a mean over devices.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from detection_tables.named_sets import NAMED_SETS
from numpy.typing import NDArray
from scipy.signal import lfilter
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from models.detection.detector import Detector, fit_detector
from models.detection.experts import rare_level
from models.detection.openings import AlarmRules, Curve, OpeningsSums, count_openings
from models.detection.prior import fleet_prior
from models.detection.promise import AlarmBudget, make_promise
from models.detection.sums import total
from models.sight import disturb_each
from models.standardiser import fit_standardiser

Floats = NDArray[Any]
Fleet = list[tuple[Floats, Floats, Floats]]
"""Of each device its standardised healthy rows (n, F), in order, what one is in its own units (F,), and healthy rows that follow (m, F)."""
RULES: Final = AlarmRules()
BUDGET: Final = AlarmBudget()
SMALLEST: Final = 1e-6


def curved_machines(seed: int, *, count: int = 8, rows: int = 600, features: int = 12) -> Fleet:
    """Sines of two slow causes, a little different on each machine, and a tenth of noise."""
    rng = np.random.default_rng(seed)
    weights, phases = 1.5 * rng.normal(size=(2, features)), rng.uniform(0, 6, features)
    fleet = []
    for _ in range(count):
        causes = 1.2 * lfilter([0.6], [1, -0.8], rng.normal(size=(2 * rows, 2)), axis=0)
        own = weights + 0.1 * rng.normal(size=weights.shape)
        table = np.sin(causes @ own + phases) + 0.1 * rng.normal(size=(2 * rows, features))
        fleet.append(standardised(table[:rows], table[rows:]))
    return fleet


def standardised(rows: Floats, later: Floats) -> tuple[Floats, Floats, Floats]:
    scale = fit_standardiser(rows)
    return scale.apply(rows).astype(np.float64), scale.scale, scale.apply(later).astype(np.float64)


def lasting_two(scores: Floats) -> Floats:
    """Over in two of three windows."""
    return np.minimum(scores, np.maximum(np.r_[0.0, scores[:-1]], np.r_[0.0, 0.0, scores[:-2]]))


def share_seen(statistic: Callable[[Floats, Floats], Floats], rows: Floats, threshold: float) -> float:
    """Of windows (n, F), two in a row, slightly disturbed; `statistic` of both."""
    before, now = (rows[:-1].astype(np.float32), rows[1:].astype(np.float32))
    repeats = -(-2 * (rows.shape[1] + 1) // max(len(now), 1))
    before, now = np.tile(before, (repeats, 1)), np.tile(now, (repeats, 1))
    is_calm = statistic(before, now) <= threshold
    is_seen = statistic(disturb_each(before), disturb_each(now)) > threshold
    return float((is_calm & is_seen).sum() / max(is_calm.sum(), 1))


def by_mixture(detector: Detector) -> Callable[[Floats, Floats], Floats]:
    def statistic(before: Floats, now: Floats) -> Floats:
        scores = np.minimum(np.transpose(detector.scores(before)), np.transpose(detector.scores(now)))
        return np.array([detector.make_time_scales().lasting(*window) for window in scores.tolist()])

    return statistic


def by_network(network: MLPRegressor, unit: float) -> Callable[[Floats, Floats], Floats]:
    return lambda before, now: np.minimum(errors(network, before), errors(network, now)) / unit


def errors(network: MLPRegressor, rows: Floats) -> Floats:
    return np.asarray(np.square(network.predict(rows) - rows).mean(axis=1))


def train(rows: Floats) -> MLPRegressor:
    middle = max(2, rows.shape[1] // 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPRegressor(
            hidden_layer_sizes=(2 * middle, middle, 2 * middle),
            max_iter=300,
            random_state=0,
            early_stopping=True,
            n_iter_no_change=15,
        ).fit(rows, rows)


def compare(name: str, fleet: Fleet) -> None:
    """Print what both see, and the difference."""
    cuts = [(3 * len(rows) // 5, 4 * len(rows) // 5) for rows, _, _ in fleet]
    parts = [(rows[:a], rows[a:b], rows[b:]) for (rows, _, _), (a, b) in zip(fleet, cuts, strict=True)]
    early = train(np.concatenate([first for first, _, _ in parts]))
    network = train(np.concatenate([np.concatenate([first, fourth]) for first, fourth, _ in parts]))
    units, counted = [], []
    for _, fourth, _ in parts:
        scores = lasting_two(errors(early, fourth))
        units.append(max(rare_level(scores, SMALLEST), SMALLEST))
        counted.append(OpeningsSums.of(count_openings(scores / units[-1], RULES)))
    threshold = make_promise(Curve.of(total(counted)), BUDGET, fitted_on=0).threshold
    learnt = [(rows[:b], unit) for (rows, unit, _), (_, b) in zip(fleet, cuts, strict=True)]
    prior = fleet_prior(learnt, RULES)
    seen, opened, windows = [], np.zeros(2), 0
    for (rows, unit), (_, _, last), own, (_, _, later) in zip(learnt, parts, units, fleet, strict=True):
        detector = fit_detector(rows, unit, prior, BUDGET, RULES)
        mixture = share_seen(by_mixture(detector), last, detector.promise.threshold)
        seen.append((mixture, share_seen(by_network(network, own), last, threshold)))
        if len(later):
            series = (detector.statistics(later), lasting_two(errors(network, later)) / own)
            opened += [
                count_openings(each, RULES, np.array([level])).openings[0]
                for each, level in zip(series, (detector.promise.threshold, threshold), strict=True)
            ]
            windows += len(later)
    both = np.array(seen)
    difference = both[:, 0] - both[:, 1]
    line = {
        "set": name,
        "mixture": round(float(both[:, 0].mean()), 3),
        "network": round(float(both[:, 1].mean()), 3),
        "difference": round(float(difference.mean()), 3),
        "ci95": round(1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5, 3),
        "devices": len(difference),
        "network_ahead_on": int((difference < 0).sum()),
        "openings_in_1000_later": [round(float(1000 * each / max(windows, 1)), 2) for each in opened],
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    for rows in (600, 2400):
        compare(f"curved, {rows} rows", curved_machines(1, rows=rows))
    data = Path(os.environ.get("FEDGE_DATA", "../shared/data"))
    for name in ("pronostia", "skab"):
        if (data / name).is_dir():
            compare(
                name, [standardised(device.healthy, device.later) for device in NAMED_SETS[name](data / name)]
            )


if __name__ == "__main__":
    main()
