"""`train.fit` as a window oracle: parameters made so that one window alone moves part of the model, which then says what it was.

The attacker knows all windows but for which half the device takes, sees the update of one device alone, and is bound by no trust region:
what is read here is read by nobody. Each attack reads most windows where the rule of support is left out, so that the test can fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from answerers import anchor
from numpy.typing import NDArray
from reference_training import loss_and_gradient

from edge_agent.errors import QuestionRefusedError
from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture, initial_parameters, join_parameters, split_parameters
from models.errors import LayoutError
from models.reference_model import activations, infer, ranges
from models.support import FEWEST_WINDOWS, supported_entries
from models.trust_radius import least_isolation
from protocol.manifest import ConvolutionSpec
from protocol.questions import FitQuestion, fit_layout
from protocol.refusals import RefusalCode
from protocol.training import TrainingSettings

pytestmark = [pytest.mark.edge, pytest.mark.slow]

Float = NDArray[np.float64]
Parts = list[NDArray[Any]]
DENSE: Final = Architecture(kind="dense-autoencoder", layers=(20, 12, 6, 12, 20))
CONVOLUTION: Final = Architecture(
    kind="conv-autoencoder",
    layers=(2, 6, 4, 6, 2),
    convolution=ConvolutionSpec(samples=12, kernel=6, stride=2),
)
TRIED: Final = 16
READ_WITHIN: Final = 0.05
"""Relative error of a window that counts as read."""


class OracleModel:
    """Plain descent in NumPy, from the equations: fast for small models, and in float64 the attacker's best case."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def restore(self, flat: NDArray[Any], correction: NDArray[Any] | None = None) -> None:
        self._w = np.array(flat, np.float64)

    def save(self) -> NDArray[np.float32]:
        return self._w.astype(np.float32)

    def train(self, x: NDArray[Any], settings: TrainingSettings, *, labels: object = None) -> float:
        loss, gradient = loss_and_gradient(self.architecture, self._w, x)
        self._w -= settings.learning_rate * gradient
        return loss

    def infer(self, x: NDArray[Any]) -> tuple[Any, Any]:
        return infer(self.architecture, self._w, x)

    def ranges(self, x: NDArray[Any]) -> tuple[Any, Any]:
        return ranges(self.architecture, self._w, x)


def windows(architecture: Architecture, n: int = 160) -> NDArray[np.float32]:
    """Of a few causes, and noise: what a machine's windows are."""
    rng = np.random.default_rng(7)
    features = architecture.feature_count
    return (
        rng.normal(size=(n, 5)) @ rng.normal(size=(5, features)) / 2 + rng.normal(size=(n, features))
    ).astype(np.float32)


def everything(architecture: Architecture, _flat: Float, _x: Float) -> NDArray[np.bool_]:
    return np.ones(architecture.parameter_count, np.bool_)


def learner_of(
    architecture: Architecture,
    profile: TrainingSettings,
    rows: NDArray[np.float32],
    *,
    supports: Callable[..., NDArray[np.bool_]] = supported_entries,
) -> LocalLearner:
    """A device that trains on these windows, half of them each time: by dice that fall alike in every test."""
    base = initial_parameters(architecture, 1)
    return LocalLearner(
        OracleModel(architecture),  # type: ignore[arg-type]  # the part of it that plain training needs
        rows,
        anchor=anchor(architecture.layout_sha256, base, profile),
        champion=base,
        maximum_examples=10_000,
        random_bytes=random.Random(7).randbytes,
        supports=supports,
    )


def question_to(architecture: Architecture, profile: TrainingSettings) -> FitQuestion:
    return FitQuestion(
        run_id="r",
        round_number=1,
        layout_sha256=architecture.layout_sha256,
        profile_sha256=profile.sha256,
    )


def direction_of(rows: Float, target: int) -> tuple[Float, float]:
    """Whitened direction towards one row, and a threshold between it and the next."""
    centre = rows.mean(axis=0)
    v = np.linalg.solve(np.cov(rows.T) + 1e-3 * np.eye(rows.shape[1]), rows[target] - centre)
    v /= np.linalg.norm(v)
    along = rows @ v
    return v, float((along[target] + np.delete(along, target).max()) / 2)


def first_layer_gate(parts: Parts, rows: Float, target: int) -> None:
    """A unit of the first layer fires for the target alone."""
    v, threshold = direction_of(rows, target)
    parts[0][:, 0], parts[1][0] = v, -threshold


def only_gate(parts: Parts, rows: Float, target: int) -> None:
    """And no other unit fires at all."""
    parts[1][:] = -30.0
    first_layer_gate(parts, rows, target)


def deeper_gate(parts: Parts, rows: Float, target: int) -> None:
    """A unit of the first layer fires for all, but what it feeds fires for the target alone."""
    v, threshold = direction_of(rows, target)
    parts[0][:, 0], parts[1][0] = v, 30.0
    parts[2][:], parts[3][:] = 0.0, -30.0
    parts[2][0, 0], parts[3][0] = 1.0, -30.0 - threshold


def last_layer_gate(parts: Parts, rows: Float, target: int) -> None:
    """A unit of the last hidden layer fires for the target alone; what it feeds is what is missing of the window."""
    v, threshold = direction_of(rows, target)
    parts[0][:, 0], parts[1][0] = v, 30.0
    parts[2][:, 0], parts[2][0, 0], parts[3][0] = 0.0, 1.0, 0.0
    parts[4][:, 0], parts[4][0, 0], parts[5][0] = 0.0, 1.0, -30.0 - threshold
    parts[6][0, :] = 0.0


def bias_gate(parts: Parts, rows: Float, target: int) -> None:
    """The biases alone are moved: of an honest unit only what its highest window is remains."""
    along = rows @ parts[0]
    unit = int(np.argmax((along[target] - along.mean(axis=0)) / along.std(axis=0)))
    parts[1][unit] = -(along[target, unit] + np.delete(along[:, unit], target).max()) / 2


ATTACKS: Final = [first_layer_gate, only_gate, deeper_gate, last_layer_gate]


def is_read(architecture: Architecture, start: Float, update: Float, window: Float) -> bool:
    """Whether any unit says what the window was: ΔW/Δb at the first layer, the row of ΔW at the last."""
    parts, base = split_parameters(architecture, update), split_parameters(architecture, start)
    with np.errstate(all="ignore"):
        guesses = list((parts[0] / parts[1]).T)
        missing = activations(architecture, join_parameters(architecture, base), window[None])[-1][0] - window
        guesses += [window + row * (missing @ row) / (row @ row) - missing for row in parts[-2]]
        errors = [np.linalg.norm(guess - window) / np.linalg.norm(window) for guess in guesses]
    return any(error < READ_WITHIN for error in errors)


def read(
    attack: Callable[[Parts, Float, int], None],
    *,
    epochs: int,
    batch_size: int,
    supports: Callable[..., NDArray[np.bool_]] = supported_entries,
) -> int:
    """How many of 16 windows an attack reads off one device, asked twice for each: with a fresh half each time."""
    profile = TrainingSettings(
        epochs=epochs, batch_size=batch_size, learning_rate=0.02, trust_radius=1e3, update_norm=200.0
    )
    rows = windows(DENSE)
    base = initial_parameters(DENSE, 1)
    learner = learner_of(DENSE, profile, rows, supports=supports)
    asked = question_to(DENSE, profile)
    training = np.flatnonzero(np.arange(len(rows)) % 5 != 4)
    found = 0
    for target in training[:: len(training) // TRIED][:TRIED]:
        parts = [np.array(part, np.float64) for part in split_parameters(DENSE, base)]
        attack(parts, rows.astype(np.float64), int(target))
        start = join_parameters(DENSE, parts)
        was_read = False
        for _ in range(4):
            try:
                vector = learner.answer(asked, {"parameters": start})
            except Exception:  # noqa: BLE001, S112 - zeros, by `SumParticipant`
                continue
            learner.settle()
            update = fit_layout(DENSE.parameter_count).unpack(vector)["update"]
            was_read |= is_read(DENSE, start.astype(np.float64), update, rows[target].astype(np.float64))
        found += was_read
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_without_the_rule_of_support_the_attack_reads_most_windows(
    attack: Callable[[Parts, Float, int], None],
) -> None:
    assert read(attack, epochs=1, batch_size=32, supports=everything) >= 6


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 8), (1, 32), (5, 32), (1, 1000)])
@pytest.mark.parametrize("attack", [*ATTACKS, bias_gate])
def test_no_window_is_read_off_an_update(
    attack: Callable[[Parts, Float, int], None], epochs: int, batch_size: int
) -> None:
    assert read(attack, epochs=epochs, batch_size=batch_size) == 0


def block_of(rows: Float, target: int) -> tuple[Float, Float]:
    """What a convolution's first layer reads of one window at its middle position, and of all windows at all positions."""
    layer = CONVOLUTION.geometry[0]
    blocks = np.pad(
        rows.reshape(len(rows), layer.positions, layer.inputs), ((0, 0), (layer.reach, layer.reach), (0, 0))
    )
    read = np.concatenate([blocks[:, j : j + layer.positions] for j in range(layer.taps)], axis=2)
    return read[target, layer.positions // 2], read.reshape(-1, layer.taps * layer.inputs)


@pytest.mark.parametrize(("supports", "fewest", "most"), [(everything, 3, 16), (supported_entries, 0, 0)])
def test_no_part_of_a_window_is_read_off_a_convolution(
    supports: Callable[..., NDArray[np.bool_]], fewest: int, most: int
) -> None:
    profile = TrainingSettings(epochs=1, learning_rate=0.02, trust_radius=1e3, update_norm=200.0)
    rows, base = windows(CONVOLUTION), initial_parameters(CONVOLUTION, 1)
    learner = learner_of(CONVOLUTION, profile, rows, supports=supports)
    asked = question_to(CONVOLUTION, profile)
    found = 0
    for target in np.flatnonzero(np.arange(len(rows)) % 5 != 4)[:: 128 // TRIED][:TRIED]:
        block, everybody = block_of(rows.astype(np.float64), int(target))
        others = everybody[(everybody != block).any(axis=1)]
        v, threshold = direction_of(np.vstack([block, others]), 0)
        parts = [np.array(part, np.float64) for part in split_parameters(CONVOLUTION, base)]
        parts[0].reshape(-1, parts[0].shape[-1])[:, 0], parts[1][0] = v, -threshold
        start, was_read = join_parameters(CONVOLUTION, parts), False
        for _ in range(4):
            vector = learner.answer(asked, {"parameters": start})
            learner.settle()
            update = split_parameters(
                CONVOLUTION, fit_layout(CONVOLUTION.parameter_count).unpack(vector)["update"]
            )
            with np.errstate(all="ignore"):
                guess = update[0].reshape(-1, update[0].shape[-1])[:, 0] / update[1][0]
            was_read |= bool(np.linalg.norm(guess - block) < READ_WITHIN * np.linalg.norm(block))
        found += was_read
    assert fewest <= found <= most


def test_a_gate_that_is_not_quite_shut_reads_no_window_either() -> None:
    """The target weighs two fifths, some six hundred others the rest. Of these the attacker takes off what is to be expected."""
    profile = TrainingSettings(
        epochs=1, batch_size=1000, learning_rate=0.1, trust_radius=1e3, update_norm=200.0
    )
    rows, base = windows(DENSE, 1600), initial_parameters(DENSE, 1)
    exact = rows.astype(np.float64)
    training = np.flatnonzero(np.arange(len(rows)) % 5 != 4)
    asked = question_to(DENSE, profile)
    found = {"everything": 0, "supported_entries": 0}
    for target in training[:: len(training) // 8][:8]:
        parts = [np.array(part, np.float64) for part in split_parameters(DENSE, base)]
        deeper_gate(parts, exact, int(target))
        parts[2][0, 1], parts[3][1] = 1.0, 30.0  # a leak past the gate, for all
        parts[4][1] *= _leak(parts, exact[training], exact[target])
        start = join_parameters(DENSE, parts)
        gradient = loss_and_gradient(DENSE, start, exact[training[training != target]])[1]
        expected = split_parameters(DENSE, -profile.learning_rate * gradient)
        for supports in (everything, supported_entries):
            learner = learner_of(DENSE, profile, rows, supports=supports)
            errors = []
            for _ in range(4):
                vector = learner.answer(asked, {"parameters": start})
                learner.settle()
                parts = split_parameters(DENSE, fit_layout(DENSE.parameter_count).unpack(vector)["update"])
                guess = (parts[0][:, 0] - expected[0][:, 0]) / (parts[1][0] - expected[1][0])
                errors.append(np.linalg.norm(guess - exact[target]) / np.linalg.norm(exact[target]))
            found[supports.__name__] += min(errors) < 2 * READ_WITHIN
    assert found["everything"] >= 4
    assert found["supported_entries"] == 0


def _leak(parts: Parts, rows: Float, target: Float) -> float:
    """By how much the leak's way out shrinks so that the target has two fifths of what moves the first unit."""

    def signals(of: Float, strength: float) -> Float:
        changed = [part.copy() for part in parts]
        changed[4][1] *= strength
        flat = join_parameters(DENSE, changed)
        return np.abs(
            [split_parameters(DENSE, loss_and_gradient(DENSE, flat, row[None])[1])[1][0] for row in of]
        )

    sample = rows[:: len(rows) // 20]
    low, high = 1e-6, 1e3
    for _ in range(15):
        middle = (low * high) ** 0.5
        others = signals(sample, middle).mean() * len(rows) / 2
        if signals(target[None], middle)[0] / (signals(target[None], middle)[0] + others) > 0.4:
            low = middle
        else:
            high = middle
    return middle


@pytest.mark.parametrize("attack", ATTACKS)
def test_such_parameters_are_not_even_trained_from(attack: Callable[[Parts, Float, int], None]) -> None:
    profile = TrainingSettings().settled(0.5)
    rows, base = windows(DENSE), initial_parameters(DENSE, 1)
    learner = learner_of(DENSE, profile, rows)
    parts = [np.array(part, np.float64) for part in split_parameters(DENSE, base)]
    attack(parts, rows.astype(np.float64), 3)
    asked = question_to(DENSE, profile)
    with pytest.raises(QuestionRefusedError) as refused:
        learner.check(asked, {"parameters": join_parameters(DENSE, parts)})
    assert refused.value.code is RefusalCode.ARRAYS


def test_within_the_trust_region_no_unit_of_the_first_layer_is_a_gate_for_a_few_windows() -> None:
    """So neither an assessment's histogram nor its extremes are one window's: what is graded lies as near as what is trained from."""
    rows, base = windows(DENSE).astype(np.float64), initial_parameters(DENSE, 1)
    radius = least_isolation(DENSE, base, rows, seed=1).trust_radius
    narrowest = len(rows)
    for attack in (first_layer_gate, bias_gate):
        for target in range(0, len(rows), 10):
            parts = [np.array(part, np.float64) for part in split_parameters(DENSE, base)]
            attack(parts, rows, target)
            wanted = join_parameters(DENSE, parts).astype(np.float64) - base
            there = base + wanted * min(1.0, radius / float(np.linalg.norm(wanted)))
            weights, biases = split_parameters(DENSE, there)[:2]
            narrowest = min(narrowest, int((rows @ weights + biases > 0).sum(axis=0).min()))
    assert narrowest >= 4 * FEWEST_WINDOWS


def test_a_classifier_which_has_no_labels_here_is_not_trained_at_all() -> None:
    classifier = Architecture(kind="dense-classifier", layers=(20, 8, 3))
    profile, base = TrainingSettings().settled(), initial_parameters(classifier, 1)
    learner = learner_of(classifier, profile, windows(DENSE))
    asked = question_to(classifier, profile)
    with pytest.raises(LayoutError):
        learner.answer(asked, {"parameters": base})
