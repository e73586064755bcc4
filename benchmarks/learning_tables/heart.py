"""Heart disease in four hospitals whose shares of the sick run from .38 to .98: local, pooled, federated, personalised.

A logistic regression, trained by the product's loop on LiteRT; scale from sums over the hospitals' training patients. The
metric is the share of test patients told right, the mean over hospitals counting each alike as FLamby does. **Personalised** is

    + label prior      the fleet's model; each hospital shifts its logits by its own training labels (`learning_tables.label_prior`)
    + tuned            from there on its own patients, held near by a proximal term that folds over training patients chose
    + own scale        each hospital standardised by itself first; kept in the table because it does harm here

Everything that is chosen is chosen inside training patients (`learning_tables.heart_training`). int8: one model for the fleet
and the shift added after it; a tuned model must be quantised where it was tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from learning_tables.heart_hospitals import Hospital, fold_of, load_hospitals
from learning_tables.heart_training import (
    CLASSIFIER,
    FEDERATED,
    FOLDS,
    Choice,
    Trainer,
    choose,
    cross_entropy,
    train_alone,
    train_pooled,
    train_together,
    tune,
)
from learning_tables.label_prior import LabelPrior, fit_label_prior
from learning_tables.plots import draw_bars
from learning_tables.report import Bound, Row
from models import reference_model
from models.export import export_int8_model, isolated
from models.int8_model import Int8Model
from models.standardiser import Standardiser, fit_standardiser
from models.training_model import TrainingModel

__all__ = ["draw", "measure"]

Flat = NDArray[np.float32]

ACCURACY: Final = "accuracy, mean of hospitals"
TUNED_PULLS: Final = (0.1, 0.3, 1.0)
TUNED_RATE: Final = 0.05
TARGET: Final = Bound(value=0.80, source="issue 4: personalised, at least")
PEERS: Final = {
    "local": Bound(value=0.787, source="FLamby, local"),
    "pooled": Bound(value=0.795, source="FLamby, pooled"),
    "FedAvg": Bound(value=0.748, source="FLamby, FedAvg"),
    "FedAdam": Bound(value=0.779, source="FLamby, FedAdam"),
}


def measure(
    seeds: Sequence[int], data: Path, *, is_quick: bool, progress: Callable[[str], None]
) -> list[Row]:
    """All rows; a seed is a split into training and test patients and the shuffles of training."""
    progress("building the training graph")
    model = TrainingModel(isolated.export_training_model(CLASSIFIER), CLASSIFIER)
    collected: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        progress(f"split {seed}")
        for name, accuracies in _judge_split(
            load_hospitals(data, seed), model, seed, is_quick=is_quick
        ).items():
            collected.setdefault(name, []).append(accuracies)
    return [_row(name, runs, seeds) for name, runs in collected.items()]


def draw(rows: Sequence[Row], axes: Any) -> None:
    """A bar per row, the target as a line."""
    draw_bars(rows, axes, ACCURACY, target=TARGET.value)
    axes.set_xlim(0.5, 0.9)


def _judge_split(
    raw: Sequence[Hospital], model: TrainingModel, seed: int, *, is_quick: bool
) -> dict[str, dict[str, float]]:
    hospitals = _scaled(raw, [_fleet_scale(raw)] * len(raw))
    own_scaled = _scaled(raw, [fit_standardiser(h.train.x) for h in raw])
    results = _judge_majorities(hospitals)

    def trained(name: str, trainer: Trainer, at: Sequence[Hospital]) -> tuple[list[Flat], Choice]:
        choice = Choice(learning_rate=0.1, rounds=2) if is_quick else choose(at, trainer, seed)
        models = trainer(at, choice.learning_rate, (choice.rounds,), seed)[0]
        results.update(_judge_both(name, at, models, None))
        return models, choice

    trained("local", train_alone(model), hospitals)
    pooled, _ = trained("pooled", train_pooled(model), hospitals)
    federated = {}
    for method in FEDERATED:
        federated[method.name] = trained(method.name, train_together(model, method), hospitals)
    trained("FedAvg + own scale", train_together(model, FEDERATED[0]), own_scaled)
    priors = _priors(hospitals)
    results |= _judge_both("pooled + label prior", hospitals, pooled, priors)
    for name, (models, _) in federated.items():
        results |= _judge_both(f"personalised: {name} + label prior", hospitals, models, priors)
    start, choice = federated["FedAvg"]
    pull = TUNED_PULLS[0] if is_quick else _choose_pull(model, hospitals, choice, seed)
    tuned = _tuned(model, hospitals, start, priors, pull, seed)
    results |= _judge_both("personalised: FedAvg + label prior + tuned", hospitals, tuned, None)
    return results


def _judge_majorities(hospitals: Sequence[Hospital]) -> dict[str, dict[str, float]]:
    fleet = int(sum(h.train.counts for h in hospitals).argmax())
    own = [int(h.train.counts.argmax()) for h in hospitals]
    return {
        "trivial: the fleet's more frequent class": _accuracies(
            hospitals, lambda i: np.full(len(hospitals[i].test.x), fleet)
        ),
        "trivial: the hospital's more frequent class": _accuracies(
            hospitals, lambda i: np.full(len(hospitals[i].test.x), own[i])
        ),
    }


def _judge_both(
    name: str, hospitals: Sequence[Hospital], models: Sequence[Flat], priors: Sequence[LabelPrior] | None
) -> dict[str, dict[str, float]]:
    def told(i: int, logits: NDArray[np.floating]) -> NDArray[np.intp]:
        return (logits if priors is None else priors[i].apply(logits)).argmax(axis=1)

    rounded: dict[int, Int8Model] = {}

    def told_by_int8(i: int) -> NDArray[np.intp]:
        flat = models[i]
        if id(flat) not in rounded:
            trained_on = [h for h, other in zip(hospitals, models, strict=True) if other is flat]
            rounded[id(flat)] = _int8_model(flat, trained_on)
        return told(i, np.stack([rounded[id(flat)].infer(row) for row in hospitals[i].test.x]))

    return {
        f"{name}, float": _accuracies(
            hospitals,
            lambda i: told(i, reference_model.infer(CLASSIFIER, models[i], hospitals[i].test.x)[0]),
        ),
        f"{name}, int8": _accuracies(hospitals, told_by_int8),
    }


def _int8_model(flat: Flat, hospitals: Sequence[Hospital]) -> Int8Model:
    """From the union of the ranges that hospitals report on their training patients."""
    reports = [reference_model.ranges(CLASSIFIER, flat, h.train.x) for h in hospitals]
    low, high = np.min([r[0] for r in reports], axis=0), np.max([r[1] for r in reports], axis=0)
    return Int8Model(export_int8_model(CLASSIFIER, flat, low, high), kind="dense-classifier")


def _choose_pull(model: TrainingModel, hospitals: Sequence[Hospital], choice: Choice, seed: int) -> float:
    loss = np.zeros(len(TUNED_PULLS))
    trainer = train_together(model, FEDERATED[0])
    for fold in range(FOLDS):
        inner = fold_of(hospitals, fold, FOLDS, seed)
        start = trainer(inner, choice.learning_rate, (choice.rounds,), seed)[0]
        priors = _priors(inner)
        for p, pull in enumerate(TUNED_PULLS):
            for h, flat in zip(inner, _tuned(model, inner, start, priors, pull, seed), strict=True):
                loss[p] += cross_entropy(reference_model.infer(CLASSIFIER, flat, h.test.x)[0], h.test.labels)
    return TUNED_PULLS[int(loss.argmin())]


def _tuned(
    model: TrainingModel,
    hospitals: Sequence[Hospital],
    start: Sequence[Flat],
    priors: Sequence[LabelPrior],
    pull: float,
    seed: int,
) -> list[Flat]:
    tuned = []
    for hospital, flat, prior in zip(hospitals, start, priors, strict=True):
        shifted = flat.copy()
        # A linear model's last two parameters are its biases: the prior's shift becomes part of it.
        shifted[-2:] += np.asarray(prior.shift, np.float32)
        tuned.append(tune(model, hospital, shifted, TUNED_RATE, pull, seed))
    return tuned


def _priors(hospitals: Sequence[Hospital]) -> list[LabelPrior]:
    fleet = np.sum([h.train.counts for h in hospitals], axis=0)
    return [fit_label_prior(h.train.counts, fleet) for h in hospitals]


def _fleet_scale(hospitals: Sequence[Hospital]) -> Standardiser:
    # What sums of the features and of their squares give the cloud.
    return fit_standardiser(np.concatenate([h.train.x for h in hospitals]))


def _scaled(hospitals: Sequence[Hospital], scales: Sequence[Standardiser]) -> list[Hospital]:
    return [
        Hospital(name=h.name, train=h.train.scaled(scale), test=h.test.scaled(scale))
        for h, scale in zip(hospitals, scales, strict=True)
    ]


def _accuracies(
    hospitals: Sequence[Hospital], told: Callable[[int], NDArray[np.integer]]
) -> dict[str, float]:
    right = {h.name: float((told(i) == h.test.labels.argmax(axis=1)).mean()) for i, h in enumerate(hospitals)}
    return {ACCURACY: float(np.mean(list(right.values()))), **right}


def _row(name: str, runs: Sequence[dict[str, float]], seeds: Sequence[int]) -> Row:
    flamby = f"on FLamby's own split {runs[list(seeds).index(0)][ACCURACY]:.3f}" if 0 in seeds else ""
    bound = TARGET if name.startswith("personalised") else PEERS.get(name.rpartition(",")[0])
    return Row(
        name=name,
        metrics={metric: [run[metric] for run in runs] for metric in runs[0]},
        bounds={} if bound is None else {ACCURACY: bound},
        note=flamby,
    )
