"""A device trains at rounded weights when it is asked to, with a second model that is made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent.learner.local_learner import LocalLearner
from models.architecture import Architecture, initial_parameters
from models.training_model import TrainingModel
from protocol.questions import FitQuestion, fit_layout

pytestmark = pytest.mark.edge

ARCHITECTURE = Architecture(kind="dense-autoencoder", layers=(6, 4, 2, 4, 6))
TRAINING = Path(__file__).parents[1] / "models" / "golden" / "autoencoder.training.tflite"


def question(round_number: int, **changes: object) -> FitQuestion:
    return FitQuestion(
        run_id="r",
        round_number=round_number,
        layout_sha256=ARCHITECTURE.layout_sha256,
        epochs=2,
        batch_size=8,
        learning_rate=0.1,
        **changes,
    )


def test_the_update_differs_from_plain_training_by_the_rounding_alone() -> None:
    made: list[TrainingModel] = []

    def model() -> TrainingModel:
        made.append(TrainingModel(TRAINING.read_bytes(), ARCHITECTURE))
        return made[-1]

    rows = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    learner = LocalLearner(model(), rows, maximum_examples=100, twin=model)
    arrays = {"parameters": initial_parameters(ARCHITECTURE, 1)}
    layout = fit_layout(ARCHITECTURE.parameter_count)
    plain = layout.unpack(learner.answer(question(1), arrays))["weighted_update"]
    assert len(made) == 1
    aware = [
        layout.unpack(learner.answer(question(n, rounded_weights="per-channel"), arrays))["weighted_update"]
        for n in (1, 1)
    ]
    assert len(made) == 2
    np.testing.assert_array_equal(*aware)
    apart = np.linalg.norm(aware[0] - plain) / np.linalg.norm(plain)
    assert 1e-4 < apart < 0.1
