"""Logit adjustment: an offset in the loss, carried by the output biases, that forgives what label shares explain."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from recordings import ROOT

from models.architecture import Architecture, initial_parameters
from models.errors import InputError, LayoutError
from models.reference_model import infer, softmax

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from learning_tables.logit_adjustment import class_offsets, shift_output

SMALL = Architecture(kind="dense-classifier", layers=(4, 3))


def test_shifted_biases_are_an_offset_of_every_logit() -> None:
    flat = initial_parameters(SMALL, 1)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    offsets = np.array([0.5, -1.0, 2.0], np.float32)
    before, after = (infer(SMALL, vector, x)[0] for vector in (flat, shift_output(flat, offsets)))
    np.testing.assert_allclose(after, before + offsets, atol=1e-6)


def test_taking_the_offset_away_gives_the_start_back() -> None:
    flat = initial_parameters(SMALL, 1)
    offsets = class_offsets(np.eye(3)[[0, 0, 1]], strength=0.6)
    np.testing.assert_allclose(shift_output(shift_output(flat, offsets), -offsets), flat, atol=1e-6)


def test_at_full_strength_equal_logits_answer_with_own_shares() -> None:
    labels = np.eye(3)[[0] * 6 + [1] * 3 + [2] * 1]
    offsets = class_offsets(labels, strength=1.0, smoothing=1e-9)
    np.testing.assert_allclose(softmax(offsets), [0.6, 0.3, 0.1], atol=1e-6)


def test_equal_shares_need_no_offset_and_strength_zero_has_none() -> None:
    np.testing.assert_allclose(class_offsets(np.eye(4), strength=1.0), 0.0, atol=1e-7)
    np.testing.assert_array_equal(class_offsets(np.eye(3)[[0, 0, 2]], strength=0.0), 0.0)


def test_a_class_never_seen_keeps_a_finite_logit_below_the_others() -> None:
    offsets = class_offsets(np.eye(3)[[0, 1]], strength=0.6)
    assert np.isfinite(offsets).all()
    assert offsets[2] < offsets[0]


@pytest.mark.parametrize(
    ("labels", "strength", "smoothing"),
    [(np.zeros((0, 3)), 1.0, 1.0), (np.zeros(3), 1.0, 1.0), (np.eye(3), -0.1, 1.0), (np.eye(3), 1.0, 0.0)],
)
def test_offsets_of_nothing_or_of_impossible_settings_are_refused(
    labels: np.ndarray, strength: float, smoothing: float
) -> None:
    with pytest.raises(InputError):
        class_offsets(labels, strength=strength, smoothing=smoothing)


@pytest.mark.parametrize("offsets", [np.zeros(0), np.zeros(16), np.zeros((1, 3))])
def test_offsets_that_are_no_output_biases_are_refused(offsets: np.ndarray) -> None:
    with pytest.raises(LayoutError):
        shift_output(np.zeros(15, np.float32), offsets)
