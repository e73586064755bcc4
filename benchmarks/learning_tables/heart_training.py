"""How the hospitals train: the device's loop on LiteRT, FedAvg, FedProx, FedAdam and SCAFFOLD around it, choices by folds.

The model is a logistic regression, a ``dense-classifier`` of layers (13, 2). The loops are the aggregator's without messages:
`aggregator.rounds.optimizers` moves the global model, `models.local_training.fit` answers for each hospital. A `Method` leaves
its step size and its rounds open; `choose` takes the pair with the least cross-entropy, summed over patients of all hospitals, in
four folds of the training patients. The sum of such losses is all that a cloud would have to see. No test patient is used.

Sources: FedAvg arXiv:1602.05629v4, FedProx arXiv:1812.06127v5, FedAdam arXiv:2003.00295v5, SCAFFOLD arXiv:1910.06378v4
(Algorithm 1, option II).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from aggregator.rounds.optimizers import FedAdam, FedAvg, ServerOptimizer
from learning_tables.heart_hospitals import Hospital, Patients, fold_of
from models.architecture import Architecture
from models.local_training import FitResult, fit
from models.reference_model import infer, softmax
from models.training_model import TrainingModel
from protocol.training import TrainingSettings

__all__ = [
    "CLASSIFIER",
    "FEDERATED",
    "Choice",
    "Method",
    "choose",
    "cross_entropy",
    "train_alone",
    "train_pooled",
    "train_together",
    "tune",
]

Flat = NDArray[np.float32]

CLASSIFIER = Architecture(kind="dense-classifier", layers=(13, 2))
LEARNING_RATES = (0.02, 0.1)
ROUNDS = (2, 5, 20)
EPOCHS, BATCH = 5, 16
FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to train together; each round every hospital passes `EPOCHS` times over its patients."""

    name: str
    server: ServerOptimizer
    proximal: float = 0.0
    has_variates: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the folds preferred."""

    learning_rate: float
    rounds: int


FEDERATED = (
    Method(name="FedAvg", server=FedAvg()),
    Method(name="FedProx", server=FedAvg(), proximal=0.1),
    Method(name="FedAdam", server=FedAdam(learning_rate=0.05)),
    Method(name="SCAFFOLD", server=FedAvg(), has_variates=True),
)

Trainer = Callable[[Sequence[Hospital], float, Sequence[int], int], list[list[Flat]]]
"""(hospitals, learning rate, rounds to stop at, seed) -> for each stop, one model per hospital."""


def train_together(model: TrainingModel, method: Method) -> Trainer:
    """Rounds of `method`; every hospital ends with the same model."""

    def train(
        hospitals: Sequence[Hospital], learning_rate: float, stops: Sequence[int], seed: int
    ) -> list[list[Flat]]:
        parameters = np.zeros(CLASSIFIER.parameter_count, np.float32)
        state = method.server.init(parameters)
        share = np.array([len(h.train.x) for h in hospitals], np.float64)
        share /= share.sum()
        control = np.zeros((len(hospitals), len(parameters)))
        settings = _settings(learning_rate, method.proximal)
        reached = []
        for number in range(1, max(stops) + 1):
            common = share @ control
            updates = np.empty_like(control)
            for i, hospital in enumerate(hospitals):
                correction = (common - control[i]).astype(np.float32) if method.has_variates else None
                result = _fit(model, parameters, hospital.train, settings, seed + number, correction)
                updates[i] = result.parameters.astype(np.float64) - parameters
                if method.has_variates:
                    # Option II: c_i' = c_i - c + (x - y_i) / (K η)
                    control[i] -= common + updates[i] / (result.steps * learning_rate)
            state, parameters = method.server.step(state, parameters, share @ updates)
            if number in stops:
                reached.append([parameters] * len(hospitals))
        return reached

    return train


def train_pooled(model: TrainingModel) -> Trainer:
    """All patients in one place: one model."""

    def train(
        hospitals: Sequence[Hospital], learning_rate: float, stops: Sequence[int], seed: int
    ) -> list[list[Flat]]:
        pool = Patients(
            x=np.concatenate([h.train.x for h in hospitals]),
            labels=np.concatenate([h.train.labels for h in hospitals]),
        )
        return [[flat] * len(hospitals) for flat in _train_on(model, pool, learning_rate, stops, seed)]

    return train


def train_alone(model: TrainingModel) -> Trainer:
    """Each hospital by itself."""

    def train(
        hospitals: Sequence[Hospital], learning_rate: float, stops: Sequence[int], seed: int
    ) -> list[list[Flat]]:
        each = [_train_on(model, h.train, learning_rate, stops, seed) for h in hospitals]
        return [list(models) for models in zip(*each, strict=True)]

    return train


def tune(
    model: TrainingModel, hospital: Hospital, start: Flat, learning_rate: float, proximal: float, seed: int
) -> Flat:
    """From the fleet's model on own patients, held near it by the proximal term."""
    settings = structs.replace(_settings(learning_rate, proximal), epochs=4 * EPOCHS)
    return _fit(model, start, hospital.train, settings, seed).parameters


def choose(hospitals: Sequence[Hospital], trainer: Trainer, seed: int) -> Choice:
    """The step size and rounds with the least cross-entropy over all left-out training patients."""
    loss = np.zeros((len(LEARNING_RATES), len(ROUNDS)))
    for fold in range(FOLDS):
        inner = fold_of(hospitals, fold, FOLDS, seed)
        for r, learning_rate in enumerate(LEARNING_RATES):
            for s, models in enumerate(trainer(inner, learning_rate, ROUNDS, seed)):
                loss[r, s] += sum(
                    cross_entropy(infer(CLASSIFIER, flat, h.test.x)[0], h.test.labels)
                    for h, flat in zip(inner, models, strict=True)
                )
    best = np.unravel_index(loss.argmin(), loss.shape)
    return Choice(learning_rate=LEARNING_RATES[best[0]], rounds=ROUNDS[best[1]])


def cross_entropy(logits: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Summed over patients: it adds up over hospitals."""
    return float(-(labels * np.log(np.maximum(softmax(logits), 1e-12))).sum())


def _train_on(
    model: TrainingModel, patients: Patients, learning_rate: float, stops: Sequence[int], seed: int
) -> list[Flat]:
    parameters = np.zeros(CLASSIFIER.parameter_count, np.float32)
    settings, reached = _settings(learning_rate), []
    for number in range(1, max(stops) + 1):
        parameters = _fit(model, parameters, patients, settings, seed + number).parameters
        if number in stops:
            reached.append(parameters)
    return reached


def _settings(learning_rate: float, proximal: float = 0.0) -> TrainingSettings:
    return TrainingSettings(epochs=EPOCHS, batch_size=BATCH, learning_rate=learning_rate, proximal=proximal)


def _fit(
    model: TrainingModel,
    start: Flat,
    patients: Patients,
    settings: TrainingSettings,
    seed: int,
    correction: Flat | None = None,
) -> FitResult:
    rng = np.random.default_rng(seed)
    return fit(model, start, patients.x, settings, rng=rng, labels=patients.labels, correction=correction)
