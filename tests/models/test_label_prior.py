"""A device's own label prior: Bayes' rule on the logits, and nothing where nothing is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from recordings import ROOT

from models.errors import InputError, LayoutError
from models.reference_model import softmax

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from learning_tables.label_prior import fit_label_prior

FLEET = np.array([300.0, 100.0])


def test_the_shift_is_bayes_rule_for_another_share_of_the_classes() -> None:
    # Two overlapping normal classes: the exact posterior is known under any prior.
    x = np.linspace(-3, 4, 15)
    likelihood = np.exp(-0.5 * np.stack([x, x - 1.5], axis=1) ** 2)
    fleet_logits = np.log(likelihood * [0.75, 0.25])
    expected = likelihood * [0.2, 0.8]
    expected /= expected.sum(axis=1, keepdims=True)
    prior = fit_label_prior(np.array([200_000.0, 800_000.0]), FLEET)
    np.testing.assert_allclose(softmax(prior.apply(fleet_logits)), expected, atol=1e-5)


def test_without_own_labels_or_with_the_fleets_own_shares_nothing_moves() -> None:
    assert fit_label_prior(np.zeros(2), FLEET).shift == (0.0, 0.0)
    np.testing.assert_allclose(fit_label_prior(FLEET / 10, FLEET).shift, 0.0, atol=1e-12)


def test_a_class_never_seen_here_becomes_unlikely_and_stays_possible() -> None:
    few, many = (fit_label_prior(np.array([n, 0.0]), FLEET).shift[1] for n in (10.0, 1000.0))
    assert many < few < 0
    assert np.isfinite(many)


def test_more_strength_moves_less() -> None:
    shifts = [abs(fit_label_prior(np.array([5.0, 25.0]), FLEET, strength=s).shift[1]) for s in (1.0, 10.0)]
    assert shifts[1] < shifts[0]


def test_one_row_and_many_are_shifted_alike() -> None:
    prior = fit_label_prior(np.array([10.0, 30.0]), FLEET)
    logits = np.array([[0.1, -0.4], [2.0, 1.0]], np.float32)
    np.testing.assert_array_equal(prior.apply(logits)[1], prior.apply(logits[1]))
    assert prior.fitted_on == 40


@pytest.mark.parametrize(
    ("own", "fleet", "strength", "says"),
    [
        ([1, 2, 3], [1, 2], 2.0, r"shapes \(3,\) and \(2,\)"),
        ([-1, 2], [1, 2], 2.0, r"\[-1.0, 2.0\]"),
        ([1, 2], [0, 2], 2.0, "above 0 for every class"),
        ([1, np.nan], [1, 2], 2.0, "nan"),
        ([1, 2], [1, 2], 0.0, "strength is above 0, got 0.0"),
    ],
)
def test_counts_that_give_no_shares_are_refused(own, fleet, strength, says) -> None:
    with pytest.raises(InputError, match=says):
        fit_label_prior(np.array(own, float), np.array(fleet, float), strength=strength)


def test_logits_of_other_classes_are_refused() -> None:
    with pytest.raises(LayoutError, match="shifts 2 logits"):
        fit_label_prior(np.zeros(2), FLEET).apply(np.zeros((4, 3)))
