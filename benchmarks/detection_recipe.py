"""The laboratory behind the demo's defaults: does the whole story hold, over seeds, with these numbers?

``machines``: v1 learns from three reference machines at nominal load; twelve others commission themselves, then their
load rises by half. Federated averaging over their recent windows gives v2. Reported: share of windows over threshold
and drift before and after, windows until an injected outer-race fault opens an alarm, and what harmful weights do.

``pronostia``: seventeen real bearings; v1 learns from a few, each bearing is centred on its own healthy start, and
false alarms in mid-life are compared: v1, local only, federated. End of life must still be detected.

Both worlds have a control: version 1's weights with the threshold that the fleet's histogram gives them. What is
better than the control is the learned weights' doing; what is not is the shared threshold's. On PRONOSTIA the fall in
false alarms is the threshold's: ranking (AUC) is no better after federated averaging than before.

    python benchmarks/detection_recipe.py [machines] [--seeds 3] [--load 1.5] [--set learning_rate=0.1]
    python benchmarks/detection_recipe.py pronostia [--until 0.25]          data: FEDGE_DATA, default ../shared/data

One JSON line a figure. Training here is the loop of `models.local_training` in NumPy: same loss, same plain SGD.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources.rotating_machine import PROFILES, Fault, MachineCondition, RotatingMachine
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import fit_reference
from models.features import make_extractor, vibration_spec
from models.standardiser import fit_standardiser
from models.thresholds import AlarmState, Opened, personal_threshold
from protocol.manifest import ThresholdSpec

Rows = NDArray[np.float32]
Weights = list[Rows]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every number that the story depends on."""

    hidden: tuple[int, ...] = (16, 8, 16)
    central_epochs: int = 60
    epochs: int = 5
    rounds: int = 5
    batch: int = 32
    learning_rate: float = 0.05
    commissioning: int = 120
    recent: int = 300
    quantile: float = 0.999
    margin: float = 1.1
    personal_minimum: float = 0.5
    personal_maximum: float = 2.0
    opens_after_windows: int = 2


def initial(layers: Sequence[int], rng: np.random.Generator) -> Weights:
    weights: Weights = []
    for fan_in, fan_out in itertools.pairwise(layers):
        weights.append(rng.normal(0, np.sqrt(2.0 / fan_in), (fan_in, fan_out)).astype(np.float32))
        weights.append(np.zeros(fan_out, np.float32))
    return weights


def reconstruct(weights: Weights, x: Rows) -> list[Rows]:
    tensors = [x]
    for i in range(0, len(weights), 2):
        z = tensors[-1] @ weights[i] + weights[i + 1]
        tensors.append(np.maximum(z, 0) if i + 2 < len(weights) else z)
    return tensors


def score(weights: Weights, x: Rows) -> Rows:
    return ((reconstruct(weights, x)[-1] - x) ** 2).mean(axis=1)


def fit(weights: Weights, x: Rows, recipe: Recipe, epochs: int, rng: np.random.Generator) -> Weights:
    weights = [w.copy() for w in weights]
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x) - recipe.batch + 1, recipe.batch):
            batch = x[order[start : start + recipe.batch]]
            tensors = reconstruct(weights, batch)
            delta = 2.0 * (tensors[-1] - batch) / batch.size
            for i in range(len(weights) - 2, -1, -2):
                gradient, bias = tensors[i // 2].T @ delta, delta.sum(axis=0)
                delta = (delta @ weights[i].T) * (tensors[i // 2] > 0)
                weights[i] -= recipe.learning_rate * gradient
                weights[i + 1] -= recipe.learning_rate * bias
    return weights


def average(updates: Sequence[Weights], examples: Sequence[int]) -> Weights:
    share = np.asarray(examples, np.float32) / sum(examples)
    return [np.tensordot(share, np.stack(layer), axes=1) for layer in zip(*updates, strict=True)]


def federate(weights: Weights, data: Sequence[Rows], recipe: Recipe, rng: np.random.Generator) -> Weights:
    for _ in range(recipe.rounds):
        updates = [fit(weights, x, recipe, recipe.epochs, rng) for x in data]
        weights = average(updates, [len(x) for x in data])
    return weights


def threshold_from(scores: Rows, recipe: Recipe) -> ThresholdSpec:
    return ThresholdSpec(
        score=float(np.quantile(scores, recipe.quantile)) * recipe.margin,
        quantile=recipe.quantile,
        margin=recipe.margin,
        fitted_on=len(scores),
        personal_minimum=recipe.personal_minimum,
        personal_maximum=recipe.personal_maximum,
    )


def windows_to_alarm(scores: Rows, threshold: float, recipe: Recipe) -> int:
    """Windows until an alarm opens; -1 if none does."""
    alarm = AlarmState(opens_after_windows=recipe.opens_after_windows)
    for i, s in enumerate(scores):
        if isinstance(alarm.update(float(s), threshold), Opened):
            return i + 1
    return -1


def drift_score(reference_rows: Rows, reference_scores: Rows, rows: Rows, scores: Rows) -> float:
    """The largest over all windows: once a machine has settled elsewhere that is no news any more."""
    monitor, largest = DriftMonitor(fit_reference(reference_rows, reference_scores), DriftSettings()), 0.0
    for row, s in zip(rows, scores, strict=True):
        monitor.update(row, float(s))
        largest = max(largest, monitor.verdict().score)
    return largest


class Device:
    """One simulated machine and everything it has seen, already standardised on its own commissioning."""

    def __init__(self, index: int, seed: int, recipe: Recipe) -> None:
        profile = list(PROFILES.values())[index % len(PROFILES)]
        self._machine = RotatingMachine(profile, seed=1000 * seed + index)
        self._extractor = make_extractor(vibration_spec(12_800.0, 2048))
        self._clock = 0.0
        raw = self._raw(MachineCondition(), recipe.commissioning)
        self.standardiser = fit_standardiser(raw)
        self.commissioning = self.standardiser.apply(raw)

    def watch(self, condition: MachineCondition, count: int) -> Rows:
        """The next `count` windows, standardised."""
        return self.standardiser.apply(self._raw(condition, count))

    def _raw(self, condition: MachineCondition, count: int) -> Rows:
        rows = []
        for _ in range(count):
            rows.append(self._extractor.extract(self._machine.window(condition, self._clock)))
            self._clock += 10.0
        return np.stack(rows)


def machines(seed: int, recipe: Recipe, *, load: float) -> dict[str, float]:
    """Nine of twelve machines get the new load; figures are shares of windows over threshold unless named otherwise."""
    rng = np.random.default_rng(seed)
    references = [Device(100 + i, seed, recipe) for i in range(3)]
    devices = [Device(i, seed, recipe) for i in range(12)]
    nominal = MachineCondition()
    conditions = [MachineCondition(load=load) if i % 4 else nominal for i in range(len(devices))]
    loaded = [i for i in range(len(devices)) if i % 4]

    central = np.concatenate([d.watch(nominal, 400) for d in references])
    width = central.shape[1]
    v1 = fit(initial((width, *recipe.hidden, width), rng), central, recipe, recipe.central_epochs, rng)
    spec1 = threshold_from(np.concatenate([score(v1, d.watch(nominal, 300)) for d in references]), recipe)
    limits1 = [personal_threshold(spec1, score(v1, d.commissioning)).value for d in devices]
    healthy = [d.watch(nominal, 300) for d in devices]
    new = [d.watch(c, 200) for d, c in zip(devices, conditions, strict=True)]
    recent = [np.concatenate(pair)[-recipe.recent :] for pair in zip(healthy, new, strict=True)]
    train, held = split(recent, rng)
    v2 = federate(v1, train, recipe, rng)
    spec2 = threshold_from(np.concatenate([score(v2, h) for h in held]), recipe)
    limits2 = [personal_threshold(spec2, score(v2, r[-120:])).value for r in recent]
    after = [d.watch(c, 300) for d, c in zip(devices, conditions, strict=True)]
    fault = Fault(kind="outer_race", severity=0.5)
    broken1 = [d.watch(MachineCondition(fault=fault), 20) for d in devices]
    broken2 = [
        d.watch(MachineCondition(load=c.load, fault=fault), 20)
        for d, c in zip(devices, conditions, strict=True)
    ]
    harmful = [w + rng.normal(0, 0.5, w.shape).astype(np.float32) for w in v2]

    # The control: version 1's weights with the threshold that the fleet's recent windows would give them.
    fleet1 = threshold_from(np.concatenate([score(v1, h) for h in held]), recipe)
    limits_fleet1 = [personal_threshold(fleet1, score(v1, r[-120:])).value for r in recent]
    slight = Fault(kind="outer_race", severity=0.1)
    hurt = [
        d.watch(MachineCondition(load=c.load, fault=slight), 60)
        for d, c in zip(devices, conditions, strict=True)
    ]

    def over(weights: Weights, rows: Sequence[Rows], limits: Sequence[float]) -> list[float]:
        return [float((score(weights, r) > t).mean()) for r, t in zip(rows, limits, strict=True)]

    def drifts(weights: Weights, normal: Sequence[Rows], rows: Sequence[Rows]) -> list[float]:
        return [
            drift_score(n, score(weights, n), r, score(weights, r)) for n, r in zip(normal, rows, strict=True)
        ]

    def delays(weights: Weights, rows: Sequence[Rows], limits: Sequence[float]) -> list[int]:
        return [windows_to_alarm(score(weights, r), t, recipe) for r, t in zip(rows, limits, strict=True)]

    commissioning = [d.commissioning for d in devices]
    before_drift, new_drift = (
        drifts(v1, commissioning, healthy),
        drifts(v1, commissioning, [n[:64] for n in new]),
    )
    after_drift = drifts(v2, [r[-120:] for r in recent], after)
    caught1, caught2 = delays(v1, broken1, limits1), delays(v2, broken2, limits2)
    return {
        "v1 nominal": float(np.mean(over(v1, healthy, limits1))),
        "v1 at new load": float(np.mean([over(v1, new, limits1)[i] for i in loaded])),
        "v2 after": float(np.mean(over(v2, after, limits2))),
        "v2 after, worst device": max(over(v2, after, limits2)),
        "v1, threshold of the fleet, after": float(np.mean(over(v1, after, limits_fleet1))),
        "slight fault, v2": float(np.mean(over(v2, hurt, limits2))),
        "slight fault, v1, threshold of the fleet": float(np.mean(over(v1, hurt, limits_fleet1))),
        "v3 harmful": float(np.mean(over(harmful, after, limits2))),
        "devices drifted, nominal": float(sum(s >= 1 for s in before_drift)),
        "devices drifted, new load (of 9)": float(sum(new_drift[i] >= 1 for i in loaded)),
        "devices drifted, after v2": float(sum(s >= 1 for s in after_drift)),
        "faults caught v1 (of 12)": float(sum(d > 0 for d in caught1)),
        "faults caught v2 (of 12)": float(sum(d > 0 for d in caught2)),
        "slowest catch, windows": float(max(caught1 + caught2)),
        "threshold v1": spec1.score,
        "threshold v2": spec2.score,
    }


def split(recent: Sequence[Rows], rng: np.random.Generator) -> tuple[list[Rows], list[Rows]]:
    """Four fifths to train on, one fifth to assess, at random as the learner does."""
    orders = [rng.permutation(len(r)) for r in recent]
    train = [r[o[: len(r) * 4 // 5]] for r, o in zip(recent, orders, strict=True)]
    held = [r[o[len(r) * 4 // 5 :]] for r, o in zip(recent, orders, strict=True)]
    return train, held


def area_under_curve(negative: Rows, positive: Rows) -> float:
    """Probability that a positive window scores above a negative one (Mann-Whitney)."""
    ranks = np.argsort(np.argsort(np.concatenate([negative, positive])))
    wins = ranks[len(negative) :].sum() - len(positive) * (len(positive) - 1) / 2
    return float(wins / len(negative) / len(positive))


DEVICES = ("B1_1", "B1_2", "B1_3", "B1_4", "B1_5", "B1_6", "B1_7", "B2_1", "B2_2", "B2_3", "B2_5", "B3_2")
"""The twelve longest lives: 120 windows of commissioning are at most 15 % of each."""
REFERENCES = ("B2_4", "B2_6", "B3_1")
"""The three longest of the others: what version 1 is trained on."""


def pronostia(seed: int, recipe: Recipe, path: Path, *, until: float) -> dict[str, float]:
    """Train on what was seen `until` that share of life; judge from there to 50 % (false alarms) and the last 5 %."""
    rng = np.random.default_rng(seed)
    with np.load(path, allow_pickle=False) as data:
        lives = {
            name: fit_standardiser(data[name][: recipe.commissioning]).apply(data[name])
            for name in (*DEVICES, *REFERENCES)
        }
    starts = [lives[name][: int(until * len(lives[name]))] for name in DEVICES]
    reference_train, reference_held = split([lives[name][: recipe.commissioning] for name in REFERENCES], rng)
    central = np.concatenate(reference_train)
    width = central.shape[1]
    v1 = fit(initial((width, *recipe.hidden, width), rng), central, recipe, recipe.central_epochs, rng)
    spec1 = threshold_from(score(v1, np.concatenate(reference_held)), recipe)
    train, held = split(starts, rng)
    v2 = federate(v1, train, recipe, rng)
    spec2 = threshold_from(np.concatenate([score(v2, h) for h in held]), recipe)
    # How much of the gain is the fleet's threshold alone? Version 1's weights with the threshold the fleet gives them.
    fleet1 = threshold_from(np.concatenate([score(v1, h) for h in held]), recipe)
    figures: dict[str, list[float]] = {}
    for name, start, mine, left_out in zip(DEVICES, starts, train, held, strict=True):
        life, commissioning = lives[name], lives[name][: recipe.commissioning]
        alone = fit(v1, mine, recipe, recipe.rounds * recipe.epochs, rng)
        own = float(np.quantile(score(alone, left_out), recipe.quantile)) * recipe.margin
        for label, weights, limit in (
            ("v1", v1, personal_threshold(spec1, score(v1, commissioning)).value),
            (
                "v1, threshold of the fleet",
                v1,
                personal_threshold(fleet1, score(v1, start[-recipe.commissioning :])).value,
            ),
            ("local only", alone, own),
            ("federated", v2, personal_threshold(spec2, score(v2, start[-recipe.commissioning :])).value),
        ):
            middle = score(weights, life[int(until * len(life)) : len(life) // 2])
            end = score(weights, life[int(0.95 * len(life)) :])
            figures.setdefault(f"{label}: false alarms in mid-life", []).append(
                float((middle > limit).mean())
            )
            figures.setdefault(f"{label}: end of life over threshold", []).append(float((end > limit).mean()))
            figures.setdefault(f"{label}: AUC", []).append(area_under_curve(middle, end))
            figures.setdefault(f"{label}: ends caught", []).append(
                float(windows_to_alarm(end, limit, recipe) > 0)
            )
    return {name: float(np.mean(values)) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("world", nargs="?", choices=("machines", "pronostia"), default="machines")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--load", type=float, default=1.5)
    parser.add_argument(
        "--until", type=float, default=0.15, help="share of life that training has seen (pronostia)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=NUMBER", help="change one recipe field"
    )
    arguments = parser.parse_args()
    changes = dict(item.split("=", 1) for item in arguments.set)
    recipe = replace(Recipe(), **{k: type(getattr(Recipe(), k))(json.loads(v)) for k, v in changes.items()})
    path = Path(os.environ.get("FEDGE_DATA", "../shared/data")) / "pronostia" / "pronostia_features.npz"
    if arguments.world == "pronostia" and not path.exists():
        raise SystemExit(f"no data at {path}: set FEDGE_DATA to the folder that holds pronostia/")
    runs = [
        machines(seed, recipe, load=arguments.load)
        if arguments.world == "machines"
        else pronostia(seed, recipe, path, until=arguments.until)
        for seed in range(arguments.seeds)
    ]
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(
            json.dumps(
                {
                    "name": name,
                    "mean": round(float(np.mean(values)), 4),
                    "seeds": [round(v, 4) for v in values],
                }
            )
        )


if __name__ == "__main__":
    main()
