"""The noise samplers: exact against their definitions, their slow twins, and wherever a table could be wrong."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate
from random import Random

import numpy as np
import pytest
from privacy_oracles import (
    bessel_weights,
    chi_square_deviations,
    draw_by_rejection,
    gaussian_pmf,
    gaussian_weights,
    invert_exactly,
    seeded_bytes,
    skellam_pmf,
)

from protocol.privacy.discrete_gaussian import MAX_STD, draw_discrete_gaussian, gaussian_table
from protocol.privacy.errors import ParameterError, SeedError
from protocol.privacy.randomness import RandomStream
from protocol.privacy.skellam import draw_skellam, skellam_table

pytestmark = pytest.mark.edge


def stream(seed: int) -> RandomStream:
    return RandomStream.fresh(seeded_bytes(seed))


@pytest.mark.parametrize("std", [0.3, 0.5, 1.0, 3.7, 40.0, 900.0])
def test_discrete_gaussian_samples_follow_their_definition(std: float) -> None:
    samples = draw_discrete_gaussian(400_000, std, stream(1))
    pmf = gaussian_pmf(std, math.ceil(9 * std) + 2)
    assert chi_square_deviations(samples, pmf) < 3.5
    k = (np.arange(len(pmf)) - len(pmf) // 2).astype(float)
    variance, fourth = float(pmf @ k**2), float(pmf @ k**4)
    assert abs(samples.var() - variance) < 4 * math.sqrt((fourth - variance**2) / len(samples))
    assert abs(samples.mean()) < 4 * math.sqrt(variance / len(samples))


@pytest.mark.parametrize("variance", [0.05, 0.5, 4.0, 60.0, 2_000.0])
def test_skellam_samples_are_differences_of_poisson_variables(variance: float) -> None:
    samples = draw_skellam(400_000, variance, stream(2))
    pmf = skellam_pmf(variance, math.ceil(9 * math.sqrt(variance)) + 6)
    assert chi_square_deviations(samples, pmf) < 3.5
    # The fourth central moment of a Skellam variable is 3μ² + μ.
    assert abs(samples.var() - variance) < 4 * math.sqrt((2 * variance**2 + variance) / len(samples))


def test_skellam_noise_has_heavier_tails_than_gaussian_noise() -> None:
    samples = draw_skellam(1_000_000, 2.0, stream(2)).astype(float)
    assert np.mean(samples**4) / 2.0**2 - 3 == pytest.approx(1 / 2.0, abs=0.05)


def test_the_chi_square_test_notices_a_sampler_that_is_two_percent_too_narrow() -> None:
    samples = draw_discrete_gaussian(400_000, 3.7 * 0.98, stream(1))
    assert chi_square_deviations(samples, gaussian_pmf(3.7, 40)) > 10


def test_discrete_gaussian_agrees_with_exact_rejection_sampling() -> None:
    rng = Random(3)
    slow = np.array([draw_by_rejection(Fraction(13, 2), rng) for _ in range(20_000)])
    pmf = gaussian_pmf(math.sqrt(6.5), 25)
    assert chi_square_deviations(slow, pmf) < 3.5
    fast = draw_discrete_gaussian(20_000, math.sqrt(6.5), stream(4))
    grid = np.arange(-25, 27) - 0.5
    a, b = np.histogram(slow, grid)[0], np.histogram(fast, grid)[0]
    used = a + b >= 40
    statistic, freedom = float(((a - b)[used] ** 2 / (a + b)[used]).sum()), int(used.sum())
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("std", ["0.25", "2.5", "30"])
def test_every_discrete_gaussian_sample_is_the_quantile_its_word_stands_for(std: str) -> None:
    words = [int(w) for w in stream(5).words(50_000)]
    weights = gaussian_weights(std, math.ceil(10 * float(std)) + 3)
    assert draw_discrete_gaussian(50_000, float(std), stream(5)).tolist() == invert_exactly(weights, words)


@pytest.mark.parametrize("variance", ["0.0625", "0.5", "6.25", "40"])
def test_every_skellam_sample_is_the_quantile_its_word_stands_for(variance: str) -> None:
    words = [int(w) for w in stream(6).words(50_000)]
    weights = bessel_weights(variance, 80)
    assert draw_skellam(50_000, float(variance), stream(6)).tolist() == invert_exactly(weights, words)


@pytest.mark.parametrize("std", [0.4, 25.0, 4_000.0])
def test_tables_give_each_magnitude_its_probability_to_sixty_two_bits(std: float) -> None:
    thresholds = [0, *map(int, gaussian_table(std).thresholds), 1 << 63]
    pmf = gaussian_pmf(std, len(thresholds) - 2)
    middle = len(pmf) // 2
    got = np.diff(np.array(thresholds, dtype=object)).astype(float) / 2.0**63
    want = np.concatenate([pmf[middle : middle + 1], 2 * pmf[middle + 1 :]])
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=2.0**-62)


@pytest.mark.parametrize("variance", ["0.0625", "6.25", "40"])
def test_skellam_tables_are_the_bessel_series_to_the_last_bit_but_one(variance: str) -> None:
    table = skellam_table(float(variance)).thresholds
    weights = bessel_weights(variance, len(table) + 20)
    total = weights[0] + 2 * sum(weights[1:])
    cumulative = accumulate([weights[0], *(2 * w for w in weights[1 : len(table)])])
    exact = [int(c / total * (1 << 63)) for c in cumulative]
    assert max(abs(int(t) - e) for t, e in zip(table, exact, strict=True)) <= 1


def test_what_lies_beyond_a_table_is_less_likely_than_its_distance_bound_says() -> None:
    for variance in (0.01, 1.0, 300.0, 1e6):
        table = skellam_table(variance)
        largest = len(list(table.weights())) - 1
        # Chernoff with t = asinh(k/μ), written as the moment generating function defines it.
        t = math.asinh((largest + 1) / variance)
        beyond = 2 * math.exp(variance * (math.cosh(t) - 1) - t * (largest + 1))
        assert beyond < 2.0**-320
        assert table.distance_bound < 2.0**-298


class Spelled:
    """A stream of words that a test chooses."""

    def __init__(self, *words: int) -> None:
        self.left = list(words)

    def words(self, count: int) -> np.ndarray:
        taken, self.left = self.left[:count], self.left[count:]
        return np.array(taken, np.uint64)


@pytest.mark.parametrize("magnitude", [0, 1, 17, 90])
def test_a_word_on_a_threshold_is_settled_by_256_more_bits(magnitude: int) -> None:
    table = gaussian_table(25.0)
    cumulative = list(accumulate(2 * w if k else w for k, w in enumerate(table.weights())))
    edge = (cumulative[magnitude] << 319) // cumulative[-1]
    leading, rest = edge >> 256, edge & ((1 << 256) - 1)
    assert leading == int(table.thresholds[magnitude])

    def drawn(more: int) -> int:
        words = [more >> shift & (2**64 - 1) for shift in (192, 128, 64, 0)]
        return int(table.draw(1, Spelled(leading << 1, *words))[0])  # type: ignore[arg-type] # as a stream is used

    assert drawn(rest - 1) == magnitude
    assert drawn(rest + 1) == magnitude + 1


def test_a_word_beyond_all_thresholds_is_no_sample_of_the_table_alone() -> None:
    top = [2**64 - 1] * 5
    assert abs(int(gaussian_table(25.0).draw(1, Spelled(*top))[0])) > 25 * 20  # type: ignore[arg-type] # as above
    assert abs(int(gaussian_table(25.0).draw(1, Spelled(2**64 - 3, *top[:4]))[0])) < 25 * 9.5  # type: ignore[arg-type] # as above


def test_the_stream_is_continued_not_repeated() -> None:
    source = stream(7)
    first, second = source.words(1000), source.words(1000)
    assert not set(first.tolist()) & set(second.tolist())
    whole = stream(7).words(2000)
    assert np.array_equal(np.concatenate([first, second]), whole)


def test_sampling_in_one_call_or_in_many_gives_the_same_samples() -> None:
    at_once = draw_discrete_gaussian(200_000, 50.0, stream(8))
    source = stream(8)
    in_parts = np.concatenate([draw_discrete_gaussian(n, 50.0, source) for n in (1, 65_536, 134_463)])
    assert np.array_equal(at_once, in_parts)


def test_fractions_are_uniform_and_below_one() -> None:
    fractions = stream(9).fractions(200_000)
    assert fractions.min() >= 0
    assert fractions.max() < 1
    counts = np.histogram(fractions, 100, (0, 1))[0]
    assert ((counts - 2000.0) ** 2 / 2000).sum() < 99 + 5 * math.sqrt(198)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, MAX_STD * 1.01])
def test_a_standard_deviation_out_of_range_is_refused_with_the_range(std: float) -> None:
    with pytest.raises(ParameterError, match=r"must be in \(0, 32768\]"):
        draw_discrete_gaussian(1, std, stream(1))


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, MAX_STD**2 * 1.01])
def test_a_variance_out_of_range_is_refused_with_the_range(variance: float) -> None:
    with pytest.raises(ParameterError, match=r"lattice variance must be in \(0, 1.07374e\+09\]"):
        draw_skellam(1, variance, stream(1))


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(SeedError, match="32 bytes, got 16"):
        RandomStream(bytes(16))
