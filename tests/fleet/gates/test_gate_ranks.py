"""The tail of the rank-sum is that of all draws that could have been made."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fleet.gates.counted import gaussian_binomial_tail
from fleet.gates.ranks import _normal_tail, rank_sum_p
from fleet.gates.saddlepoint import saddlepoint_tail
from fleet.gates.scores import Scores, least_p, score
from fleet.gates.signed_ranks import least_signed_p, signed_rank_p

Floats = NDArray[np.float64]


def one_stratum(values: Floats, canaries: int) -> Scores:
    """The first `canaries` of `values` have the release."""
    return score(values, np.arange(len(values)) < canaries, np.zeros(len(values), dtype=np.int64))


def by_brute_force(scores: Scores) -> float:
    """The share of all draws of as many canaries from each stratum whose scores have a sum as large."""
    ways = [
        itertools.combinations(np.flatnonzero(scores.stratum == code), int(drawn))
        for code, drawn in enumerate(scores.canaries)
    ]
    reached = float(scores.score[scores.is_canary].sum())
    draws = [
        sum(float(scores.score[list(part)].sum()) for part in parts) for parts in itertools.product(*ways)
    ]
    return float(np.mean(np.array(draws) >= reached - 1e-9))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=10), st.integers(1, 9))
def test_the_tail_with_ties_is_that_of_all_draws(values: list[int], canaries: int) -> None:
    scores = one_stratum(np.array(values, dtype=np.float64), min(canaries, len(values) - 1))
    assert rank_sum_p(scores) == pytest.approx(by_brute_force(scores), abs=1e-9)


@given(st.permutations(range(9)), st.integers(1, 8))
def test_the_tail_without_ties_is_that_of_all_draws(values: list[int], canaries: int) -> None:
    scores = one_stratum(np.array(values, dtype=np.float64), canaries)
    assert rank_sum_p(scores) == pytest.approx(by_brute_force(scores), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=4, max_size=10), st.integers(0, 2**31))
def test_the_tail_over_two_strata_of_a_size_is_that_of_all_draws(
    rows: list[tuple[int, bool]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    half = len(rows) // 2
    values = np.array([value for value, _ in rows[: 2 * half]], dtype=np.float64)
    is_canary = rng.permuted(np.arange(2 * half) < half)
    scores = score(values, is_canary, np.arange(2 * half) // half)
    if len(scores.score):
        assert rank_sum_p(scores) == pytest.approx(by_brute_force(scores), abs=1e-9)


@pytest.mark.parametrize(
    ("drawn", "others", "wins"), [(8, 200, 1300), (8, 200, 801), (5, 200, 995), (8, 1000, 6500)]
)
def test_floating_point_counts_as_well_as_whole_numbers_do(drawn: int, others: int, wins: int) -> None:
    counts = [1] + [0] * (drawn * others - wins)
    for step in range(1, drawn + 1):
        for k in range(len(counts) - 1, others + step - 1, -1):
            counts[k] -= counts[k - others - step]
        for k in range(step, len(counts)):
            counts[k] += counts[k - step]
    exact = sum(counts) / math.comb(drawn + others, drawn)
    assert gaussian_binomial_tail(drawn, others, wins) == pytest.approx(exact, rel=1e-9)


def test_a_count_of_wins_of_few_agrees_with_the_saddlepoint_of_many() -> None:
    rng = np.random.default_rng(5)
    for canaries, controls in [(9, 30), (20, 200), (12, 12)]:
        values = rng.normal(size=canaries + controls) + 0.9 * (np.arange(canaries + controls) < canaries)
        scores = one_stratum(values, canaries)
        wins = (
            round(float(scores.score[scores.is_canary].sum()) * (len(values) + 1))
            - canaries * (canaries + 1) // 2
        )
        assert saddlepoint_tail(scores) == pytest.approx(
            gaussian_binomial_tail(canaries, controls, wins), rel=0.03
        )


@pytest.mark.parametrize(("alarming", "of_them"), [(10, 5), (10, 4), (30, 9), (3, 3), (60, 15)])
def test_where_nearly_all_show_nothing_the_tail_is_hypergeometric_and_the_normal_one_is_far_too_small(
    alarming: int, of_them: int
) -> None:
    values = np.zeros(220)
    values[:of_them] = values[20 : 20 + alarming - of_them] = 1.0
    scores = one_stratum(values, 20)
    ways = sum(
        math.comb(alarming, k) * math.comb(220 - alarming, 20 - k)
        for k in range(of_them, min(alarming, 20) + 1)
    )
    exact = ways / math.comb(220, 20)
    assert rank_sum_p(scores) == pytest.approx(exact, rel=0.03)
    assert _normal_tail(scores) < 0.8 * exact


def test_the_tail_over_many_strata_of_few_devices_is_never_too_small() -> None:
    rng = np.random.default_rng(6)
    stratum = np.repeat(np.arange(12), 10)
    is_canary = np.arange(120) % 10 == 0
    values = rng.integers(0, 6, 120) + 1.6 * is_canary
    scores = score(values, is_canary, stratum)
    reached = float(scores.score[scores.is_canary].sum())
    of_stratum = np.stack([scores.score[scores.stratum == code] for code in range(12)])
    draws = of_stratum[np.arange(12), rng.integers(0, 10, (200_000, 12))].sum(axis=1)
    drawn = float((draws >= reached - 1e-9).mean())
    assert 0.95 * drawn <= rank_sum_p(scores) <= 1.5 * drawn


@given(st.integers(0, 2**31), st.sampled_from([1, 5, 15]))
def test_a_p_value_knows_neither_order_nor_scale_and_falls_with_one_canary_s_harm(
    seed: int, canaries: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=40), 1)
    is_canary = np.arange(40) < canaries
    stratum = np.arange(40) % 2
    p = rank_sum_p(score(values, is_canary, stratum))
    order = rng.permutation(40)
    assert rank_sum_p(score(values[order], is_canary[order], stratum[order])) == pytest.approx(p)
    assert rank_sum_p(score(np.exp(values + 3), is_canary, stratum)) == pytest.approx(p)
    values[0] += rng.exponential()
    assert rank_sum_p(score(values, is_canary, stratum)) <= p * 1.02  # a saddlepoint is smooth, not exact


def test_ties_at_zero_say_nothing() -> None:
    assert rank_sum_p(one_stratum(np.zeros(205), 5)) == 1.0
    assert rank_sum_p(one_stratum(np.zeros(220), 20)) >= 0.5


def test_what_is_not_finite_is_nobody() -> None:
    values = np.array([np.nan, 3.0, 1.0, np.inf, 2.0, -np.inf])
    scores = one_stratum(values, 2)
    assert (int(scores.canaries.sum()), len(scores.score)) == (1, 3)
    assert rank_sum_p(scores) == pytest.approx(1 / 3)
    assert rank_sum_p(one_stratum(np.full(4, np.nan), 2)) == 1.0


def test_canaries_without_a_control_of_their_stratum_are_not_compared() -> None:
    scores = score(np.arange(6.0), np.array([1, 1, 0, 0, 1, 0], dtype=bool), np.array([0, 0, 1, 1, 2, 2]))
    assert scores.sizes.tolist() == [2]
    assert least_p(scores.sizes, scores.canaries) == pytest.approx(0.5)


def test_a_test_of_two_strata_has_fewer_draws_than_one() -> None:
    assert least_p(np.array([40]), np.array([2])) < least_p(np.array([20, 20]), np.array([1, 1]))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_signed_ranks_are_those_of_all_signs(changes: list[int]) -> None:
    values = np.array([change for change in changes if change], dtype=np.float64)
    p = signed_rank_p(np.array(changes, dtype=np.float64))
    if not len(values):
        assert p == 1.0
        return
    size = np.abs(values)
    ranks = np.array([(size < own).sum() + ((size == own).sum() + 1) / 2 for own in size])
    reached = ranks[values > 0].sum()
    draws = [
        ranks[np.array(signs, dtype=bool)].sum() for signs in itertools.product([0, 1], repeat=len(values))
    ]
    assert p == pytest.approx(float(np.mean(np.array(draws) >= reached - 1e-9)))
    assert p >= least_signed_p(len(values)) * 0.999


def test_signed_ranks_of_many_go_on_where_those_of_few_ended() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(0.3, 1.0, 60)
    assert signed_rank_p(np.append(values, 1e-9)) == pytest.approx(signed_rank_p(values), rel=0.15)
