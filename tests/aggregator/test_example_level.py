"""Example-level ε: three accountants from three libraries' authors on the same events, and the laws they share."""

from __future__ import annotations

import math

import pytest
from opacus.accountants import PRVAccountant

from aggregator.privacy.example_level import (
    example_epsilon,
    idealised_example_epsilon,
)
from protocol.training import ExamplePrivacy

pytestmark = pytest.mark.slow

DELTA = 1e-5
PRV_ERROR = 0.01
"""Opacus' own bound on the error of its ε, absolute (its default `eps_error`)."""


def steps_of(rate: float, multiplier: float, steps: int) -> ExamplePrivacy:
    return ExamplePrivacy(clip_norm=1.0, noise_multiplier=multiplier, sampling_rate=rate, steps=steps)


def opacus_epsilon(*events: ExamplePrivacy) -> float:
    accountant = PRVAccountant()
    accountant.history = [(one.noise_multiplier, one.sampling_rate, one.steps) for one in events]
    return accountant.get_epsilon(DELTA, eps_error=PRV_ERROR)


EVENTS = [
    (0.01, 1.0, 1000),
    (0.02, 0.7, 500),
    (0.2, 4.0, 1000),
]


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_dp_accounting_and_opacus_prv_agree_and_our_bound_is_above_both(event) -> None:
    one = steps_of(*event)
    ours, loss_distributions, prv = (
        example_epsilon([one], DELTA),
        idealised_example_epsilon([one], DELTA),
        opacus_epsilon(one),
    )
    # dp-accounting discretises upwards by 1e-4 a step, Opacus promises PRV_ERROR.
    assert loss_distributions == pytest.approx(prv, abs=2 * PRV_ERROR)
    assert max(prv, loss_distributions) < ours < 1.2 * prv


def test_rounds_of_different_noise_add_up_as_opacus_adds_them() -> None:
    rounds = [steps_of(0.05, 1.0, 50), steps_of(0.05, 2.0, 100), steps_of(0.1, 3.0, 30)]
    assert idealised_example_epsilon(rounds, DELTA) == pytest.approx(
        opacus_epsilon(*rounds), abs=2 * PRV_ERROR
    )
    assert example_epsilon(rounds, DELTA) > opacus_epsilon(*rounds)


def test_a_full_batch_costs_what_the_gaussian_mechanism_does() -> None:
    # One step that every window is in: the analytic Gaussian mechanism, Balle and Wang, arXiv:1805.06530v2, Theorem 8.
    multiplier, epsilon = 3.0, idealised_example_epsilon([steps_of(1.0, 3.0, 1)], DELTA)

    def phi(value: float) -> float:
        return 0.5 * math.erfc(-value / math.sqrt(2))

    half, shift = 1 / (2 * multiplier), epsilon * multiplier
    assert phi(half - shift) - math.exp(epsilon) * phi(-half - shift) == pytest.approx(DELTA, rel=0.01)


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise() -> None:
    base = example_epsilon([steps_of(0.05, 1.0, 100)], DELTA)
    assert base < example_epsilon([steps_of(0.05, 1.0, 200)], DELTA)
    assert base < example_epsilon([steps_of(0.1, 1.0, 100)], DELTA)
    assert base > example_epsilon([steps_of(0.05, 1.2, 100)], DELTA)
    assert example_epsilon([steps_of(0.05, 1.0, 50)] * 2, DELTA) == pytest.approx(base)


def test_the_clip_norm_does_not_change_what_a_step_costs() -> None:
    wide = ExamplePrivacy(clip_norm=50.0, noise_multiplier=1.0, sampling_rate=0.05, steps=100)
    assert example_epsilon([wide], DELTA) == example_epsilon([steps_of(0.05, 1.0, 100)], DELTA)


def test_a_device_that_never_answered_has_given_nothing() -> None:
    assert example_epsilon([], DELTA) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta) -> None:
    with pytest.raises(ValueError, match="delta must be between 0 and 1"):
        example_epsilon([steps_of(0.05, 1.0, 1)], delta)
