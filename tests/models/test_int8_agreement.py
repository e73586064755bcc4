"""Float against int8 on real windows, as a device sees them."""

from __future__ import annotations

import numpy as np
import pytest
from model_samples import ARCHITECTURES, int8_bytes, parameters, training_bytes, windows

from models import reference_model
from models.errors import InputError
from models.int8_agreement import compare_on_windows
from models.int8_model import Int8Model
from models.training_model import TrainingModel

pytestmark = pytest.mark.edge


def float_model(name: str, flat: np.ndarray) -> TrainingModel:
    model = TrainingModel(training_bytes(name), ARCHITECTURES[name])
    model.restore(flat)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_figures_are_those_of_the_two_models_side_by_side(name: str) -> None:
    architecture, x = ARCHITECTURES[name], windows(name, 60, seed=4)
    int8 = Int8Model(int8_bytes(name), architecture.kind)
    found = compare_on_windows(int8, float_model(name, parameters(name)), x)
    got = np.array([int8.infer(row) for row in x], np.float64)
    expected, score = reference_model.infer(architecture, parameters(name), x)
    assert found.windows == 60
    assert found.output_error == pytest.approx(
        np.mean((got - expected) ** 2) / np.mean(expected**2), rel=1e-3
    )
    changed = np.abs(reference_model.scores(architecture.kind, x, got) - score).mean() / score.mean()
    assert found.score_error == pytest.approx(changed, rel=1e-2)
    assert found.score_error < 0.1


def test_another_models_int8_is_far_off() -> None:
    other = parameters("autoencoder") + np.float32(0.3)
    int8 = Int8Model(int8_bytes("autoencoder"))
    assert (
        compare_on_windows(int8, float_model("autoencoder", other), windows("autoencoder", 60)).output_error
        > 0.1
    )


def test_no_windows_and_bad_windows_are_refused() -> None:
    int8, floats = Int8Model(int8_bytes("autoencoder")), float_model("autoencoder", parameters("autoencoder"))
    with pytest.raises(InputError, match="at least one window"):
        compare_on_windows(int8, floats, np.zeros((0, 6), np.float32))
    with pytest.raises(InputError, match="finite"):
        compare_on_windows(int8, floats, np.full((2, 6), np.nan, np.float32))
