"""Clipping and rounding: the bound that privacy rests on holds for every update anyone can think of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from privacy_oracles import seeded_bytes

from protocol.privacy.clipping import clip_to_ball
from protocol.privacy.errors import ParameterError, UpdateError
from protocol.privacy.mechanism import PrivacyParameters, round_update
from protocol.privacy.randomness import RandomStream
from protocol.privacy.rounding import norm_bound, round_within

pytestmark = pytest.mark.edge


def stream(seed: int) -> RandomStream:
    return RandomStream.fresh(seeded_bytes(seed))


def adversarial_update(kind: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Updates that make rounding long: halves everywhere, spikes, one step above an integer, far outside the ball."""
    match kind % 6:
        case 0:
            return np.full(dimension, 1.0)
        case 1:
            return np.eye(dimension)[rng.integers(dimension)] * 1e6
        case 2:
            return rng.choice([-1.0, 1.0], dimension)
        case 3:
            return rng.normal(size=dimension) * 10.0 ** rng.integers(-6, 7)
        case 4:
            few = np.zeros(dimension)
            few[: rng.integers(1, dimension + 1)] = rng.normal()
            return few
        case _:
            return rng.standard_cauchy(dimension)


@pytest.mark.slow
def test_ten_thousand_adversarial_updates_never_exceed_the_sensitivity() -> None:
    rng, source = np.random.default_rng(0), stream(0)
    longest, plain_exceeded = 0.0, 0
    for i in range(10_000):
        parameters = PrivacyParameters(
            dimension=int(rng.integers(1, 65)),
            clip=float(10.0 ** rng.uniform(-3, 3)),
            noise_multiplier=float(rng.choice([0.3, 1.0, 8.0])),
            cohort=int(rng.choice([1, 10, 100])),
            bits=int(rng.choice([7, 8, 12, 16, 20, 32])),
        )
        update = adversarial_update(i, parameters.dimension, rng)
        steps = round_update(update, parameters, source)
        # Python integers: the check itself must not round.
        squared = sum(int(step) ** 2 for step in steps)
        assert squared <= parameters.norm_bound**2
        longest = max(longest, math.sqrt(squared) / parameters.norm_bound)
        x = rng.choice([-1.0, 1.0], 64) * (parameters.clip * parameters.scale / 8)
        plain = np.floor(x) + (rng.random(64) < x - np.floor(x))
        plain_exceeded += float(plain @ plain) > norm_bound(parameters.clip * parameters.scale, 64) ** 2
    assert longest > 0.99
    # Rounding without the condition does break the bound: the condition is not decoration.
    assert plain_exceeded > 50


def test_rounding_is_unbiased_where_the_bound_does_not_bind() -> None:
    x = np.array([0.1, -0.1, 2.5, -7.75, 3.0])
    mean = np.mean([round_within(x, 50.0, stream(i)) for i in range(8000)], axis=0)
    np.testing.assert_allclose(mean, x, atol=0.03)
    assert mean[4] == 3.0


def test_rounding_moves_an_entry_by_less_than_one() -> None:
    x = np.random.default_rng(1).normal(scale=100, size=2000)
    assert np.abs(round_within(x, 1e5, stream(1)) - x).max() < 1


def test_a_vector_that_was_not_clipped_is_refused_rather_than_sent() -> None:
    with pytest.raises(UpdateError, match="no rounding of a vector of norm 1000 stays within 900"):
        round_within(np.array([1000.0, 0.0]), 900.0, stream(1))


@pytest.mark.parametrize(("clip_scaled", "dimension"), [(1.0, 10**6), (1e5, 10), (0.0, 4), (300.0, 90_000)])
def test_the_norm_bound_is_the_smaller_of_the_two_of_the_paper(clip_scaled: float, dimension: int) -> None:
    certain = clip_scaled + math.sqrt(dimension)
    likely = math.sqrt(clip_scaled**2 + dimension / 4 + (clip_scaled + math.sqrt(dimension) / 2))
    assert norm_bound(clip_scaled, dimension) == pytest.approx(min(certain, likely), rel=1e-14)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=40),
    st.floats(1e-9, 1e9),
)
@example([1.7e308] * 4, 1e-9)
@example([5e-324], 1e9)
@settings(max_examples=300, deadline=None)
def test_clipping_keeps_direction_and_never_leaves_the_ball(entries: list[float], clip: float) -> None:
    x = np.array(entries)
    clipped = clip_to_ball(x, clip)
    # Eighty bits have the exponents that squares of any float64 need.
    norm, exact = np.linalg.norm(clipped.astype(np.longdouble)), np.linalg.norm(x.astype(np.longdouble))
    assert norm < clip
    if exact <= clip * (1 - 2e-6):
        assert np.array_equal(clipped, x)
    else:
        expected = x.astype(np.longdouble) * min(np.longdouble(1), clip / exact)
        # A part of the direction may be subnormal, with few digits left to scale.
        lost = np.longdouble(5e-324) * (2 * clip + 2)
        np.testing.assert_allclose(clipped.astype(np.longdouble), expected, rtol=3e-6, atol=lost)


def test_clipping_scales_a_long_update_to_just_inside_the_ball() -> None:
    assert np.linalg.norm(clip_to_ball(np.full((3, 4), 5.0), 2.0)) == pytest.approx(2.0 * (1 - 1e-6))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(UpdateError, match="1 of 3 entries are not"):
        clip_to_ball(np.array([1.0, bad, 2.0]), 1.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_is_no_norm_is_refused(clip: float) -> None:
    with pytest.raises(ParameterError, match="clip must be a positive finite"):
        clip_to_ball(np.ones(2), clip)


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1.0, 1e200])
def test_entries_whose_squares_leave_the_range_of_floats_are_clipped_like_any_others(size: float) -> None:
    clipped = clip_to_ball(size * np.array([3.0, -4.0]), size)
    assert clipped / size == pytest.approx([0.6, -0.8], rel=1e-5)
    short = size * np.array([0.3, -0.4])
    assert np.array_equal(clip_to_ball(short, size), short)
