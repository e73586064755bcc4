"""The laboratory behind the demo's defaults: does the whole story hold, over seeds, with these numbers?

``machines``: v1 learns from three reference machines at nominal load; twelve others commission themselves, then their
load rises by half. Federated averaging over their recent windows gives v2. Reported: share of windows over threshold
and drift before and after, windows until an injected outer-race fault opens an alarm, and what harmful weights do.

``pronostia``: seventeen real bearings; v1 learns from a few, each bearing is centred on its own healthy start, and
false alarms in mid-life are compared: v1, local only, federated. End of life must still be detected.

    python benchmarks/detection_recipe.py machines [--seeds 3]
    python benchmarks/detection_recipe.py pronostia            data: FEDGE_DATA, default ../shared/data

One JSON line a figure. Training here is the loop of `models.local_training` in NumPy: same loss, same plain SGD.
"""

from __future__ import annotations

import argparse
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
from models.standardiser import Standardiser
from models.thresholds import AlarmState, Opened, effective_threshold
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
    learning_rate: float = 0.3
    commissioning: int = 120
    recent: int = 300
    quantile: float = 0.999
    margin: float = 1.1
    personal_minimum: float = 0.5
    personal_maximum: float = 2.0
    speed_of_confirm: int = 2


def initial(layers: Sequence[int], rng: np.random.Generator) -> Weights:
    weights: Weights = []
    for fan_in, fan_out in zip(layers[:-1], layers[1:], strict=True):
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
    return [sum(s * w for s, w in zip(share, layer, strict=True)) for layer in zip(*updates, strict=True)]  # type: ignore[misc]


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
    alarm = AlarmState(confirm=recipe.speed_of_confirm)
    for i, s in enumerate(scores):
        if isinstance(alarm.update(float(s), threshold), Opened):
            return i + 1
    return -1


def alarms(scores: Rows, threshold: float, recipe: Recipe) -> int:
    alarm = AlarmState(confirm=recipe.speed_of_confirm)
    return sum(isinstance(alarm.update(float(s), threshold), Opened) for s in scores)


def drift_score(reference_rows: Rows, reference_scores: Rows, rows: Rows, scores: Rows) -> float:
    monitor = DriftMonitor(fit_reference(reference_rows, reference_scores), DriftSettings())
    for row, s in zip(rows, scores, strict=True):
        monitor.update(row, float(s))
    return monitor.verdict().score


class Device:
    """One simulated machine and everything it has seen, already standardised on its own commissioning."""

    def __init__(self, index: int, seed: int, recipe: Recipe) -> None:
        profile = list(PROFILES.values())[index % len(PROFILES)]
        self._machine = RotatingMachine(profile, seed=1000 * seed + index)
        self._extractor = make_extractor(vibration_spec(12_800.0, 2048))
        self._clock = 0.0
        raw = self._raw(MachineCondition(), recipe.commissioning)
        self.standardiser = Standardiser.fit(raw)
        self.commissioning = self.standardiser.apply(raw)

    def watch(self, condition: MachineCondition, count: int) -> Rows:
        return self.standardiser.apply(self._raw(condition, count))

    def _raw(self, condition: MachineCondition, count: int) -> Rows:
        rows = []
        for _ in range(count):
            rows.append(self._extractor.extract(self._machine.window(condition, self._clock)))
            self._clock += 10.0
        return np.stack(rows)


def machines(seed: int, recipe: Recipe) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    references = [Device(100 + i, seed, recipe) for i in range(3)]
    devices = [Device(i, seed, recipe) for i in range(12)]
    nominal, loaded = MachineCondition(), MachineCondition(load=1.5)

    central = np.concatenate([d.watch(nominal, 400) for d in references])
    v1 = fit(
        initial((central.shape[1], *recipe.hidden, central.shape[1]), rng), central, recipe, recipe.central_epochs, rng
    )
    spec1 = threshold_from(np.concatenate([score(v1, d.watch(nominal, 300)) for d in references]), recipe)
    limits1 = [effective_threshold(spec1, score(v1, d.commissioning)) for d in devices]
    healthy = [d.watch(nominal, 300) for d in devices]
    new = [d.watch(loaded, 200) for d in devices]
    recent = [np.concatenate([h, n])[-recipe.recent :] for h, n in zip(healthy, new, strict=True)]
    order = [rng.permutation(len(r)) for r in recent]
    train = [r[o[: len(r) * 4 // 5]] for r, o in zip(recent, order, strict=True)]
    held = [r[o[len(r) * 4 // 5 :]] for r, o in zip(recent, order, strict=True)]
    v2 = federate(v1, train, recipe, rng)
    spec2 = threshold_from(np.concatenate([score(v2, h) for h in held]), recipe)
    limits2 = [effective_threshold(spec2, score(v2, r)) for r in recent]
    after = [d.watch(loaded, 300) for d in devices]
    faulty = [
        (d.watch(replace_fault(nominal), 20), d.watch(replace_fault(loaded), 20)) for d in devices
    ]

    def share(weights: Weights, rows: Sequence[Rows], limits: Sequence[float]) -> float:
        return float(np.mean([(score(weights, r) > t).mean() for r, t in zip(rows, limits, strict=True)]))

    def opened(weights: Weights, rows: Sequence[Rows], limits: Sequence[float]) -> int:
        return sum(alarms(score(weights, r), t, recipe) for r, t in zip(rows, limits, strict=True))

    bad = [w + rng.normal(0, 0.5, w.shape).astype(np.float32) for w in v2]
    return {
        "seed": seed,
        "loss": [round(float(score(v1, np.concatenate(healthy)).mean()), 3), round(float(score(v2, np.concatenate(after)).mean()), 3)],
        "thresholds": [round(spec1.score, 2), round(spec2.score, 2)],
        "v1_healthy_over": share(v1, healthy, limits1),
        "v1_loaded_over": share(v1, new, limits1),
        "v2_loaded_over": share(v2, after, limits2),
        "v2_nominal_over": share(v2, healthy, limits2),
        "alarms": [opened(v1, healthy, limits1), opened(v1, new, limits1), opened(v2, after, limits2)],
        "v1_drift_healthy": [round(drift_score(d.commissioning, score(v1, d.commissioning), h, score(v1, h)), 2) for d, h in zip(devices, healthy, strict=True)],
        "v1_drift_loaded": [round(drift_score(d.commissioning, score(v1, d.commissioning), h[:60], score(v1, h[:60])), 2) for d, h in zip(devices, new, strict=True)],
        "v2_drift_after": [round(drift_score(r[-150:], score(v2, r[-150:]), a, score(v2, a)), 2) for r, a in zip(recent, after, strict=True)],
        "fault_v1_nominal": [windows_to_alarm(score(v1, f[0]), t, recipe) for f, t in zip(faulty, limits1, strict=True)],
        "fault_v2_loaded": [windows_to_alarm(score(v2, f[1]), t, recipe) for f, t in zip(faulty, limits2, strict=True)],
        "fault_ratio_v2": round(min(float(np.median(score(v2, f[1])) / t) for f, t in zip(faulty, limits2, strict=True)), 2),
        "bad_v3_over": share(bad, after, limits2),
    }


def replace_fault(condition: MachineCondition) -> MachineCondition:
    return MachineCondition(load=condition.load, fault=Fault(kind="outer_race", severity=0.5))
