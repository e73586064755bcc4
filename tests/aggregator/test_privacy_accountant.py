"""What rounds cost: the design's reference values, exact divergences, and laws that any honest account obeys."""

from __future__ import annotations

import math
from collections.abc import Sequence

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_world import fixed, gaussian
from numpy.typing import NDArray
from scipy import special

from aggregator.errors import PrivacyPlanError
from aggregator.privacy import accountant
from aggregator.privacy.accountant import (
    UsedSum,
    add_up,
    idealised_release_epsilon,
    idealised_server_epsilon,
    release_epsilon,
    server_epsilon,
)
from aggregator.privacy.adaptive_clipping import AdaptiveClip, clip_bit_noise, update_noise_multiplier
from aggregator.privacy.ledger_entries import FixedCohort
from aggregator.privacy.poisson_draws import CoinDraw
from protocol.privacy.parameters import NoiseKind, PrivacyParameters
from protocol.privacy_cost import (
    ORDERS,
    SAMPLER_DELTA,
    PrivacyCost,
    RoundNoise,
    epsilon,
    noise_of,
    planned_cost,
    realised_multiplier,
    round_cost,
)

DELTA = 1e-4
UNIT = PrivacyCost(rho=0.5)  # one round at z = 1
COINS = CoinDraw(rate=0.1)


def sums(count: int, sampling: CoinDraw | FixedCohort, cost: PrivacyCost = UNIT) -> list[UsedSum]:
    return [UsedSum(cost=cost, sampling=sampling, is_gaussian=True)] * count


# --- the reference values of the design: N=1000, n=100, T=100, z=1, δ=1e-4


def test_a_hundred_poisson_rounds_cost_6_82_by_renyi_orders() -> None:
    assert release_epsilon(sums(100, COINS), {"d": UNIT.times(100)}, DELTA) == pytest.approx(6.82, abs=0.005)


def test_a_hundred_poisson_rounds_cost_5_97_idealised() -> None:
    assert idealised_release_epsilon(0.1, 1.0, 100, DELTA) == pytest.approx(5.97, abs=0.005)


def test_ten_participations_cost_16_1_towards_the_server_idealised() -> None:
    assert idealised_server_epsilon(10.0, DELTA) == pytest.approx(16.1, abs=0.05)


def test_taking_part_in_every_round_costs_86_3_idealised() -> None:
    assert idealised_server_epsilon(100.0, DELTA) == pytest.approx(86.3, abs=0.05)


def test_a_hundred_fixed_size_rounds_cost_81_6() -> None:
    assert release_epsilon(sums(100, fixed()), {"d": UNIT.times(100)}, DELTA) == pytest.approx(81.6, abs=0.05)


def test_a_concentrated_cost_of_0_81_is_8_92_at_1e_minus_10() -> None:
    cost = PrivacyCost(rho=0.81)
    assert server_epsilon({"d": cost}, 1e-10) == pytest.approx(8.92, abs=0.005)
    assert epsilon(cost, 1e-10) == pytest.approx(8.92, abs=0.005)


@pytest.mark.parametrize("z", [0.5, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("rounds", [1, 7, 40])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-9])
def test_what_is_claimed_towards_the_server_is_no_less_than_the_exact_figure(
    z: float, rounds: int, delta: float
) -> None:
    claimed = server_epsilon({"d": PrivacyCost(rho=0.5 / z**2).times(rounds)}, delta)
    exact = idealised_server_epsilon(rounds / z**2, delta)
    # The orders begin at 2: where a figure says nothing any more it says it more loudly.
    assert exact <= claimed <= 1.5 * exact + 0.35


# --- the same account on the device and in the cloud


@given(rho=st.floats(1e-4, 50), xi=st.floats(0, 5), delta=st.floats(1e-12, 1e-2))
def test_a_device_and_the_aggregator_come_to_the_same_epsilon(rho: float, xi: float, delta: float) -> None:
    cost = PrivacyCost(rho=rho, xi=xi)
    event, left = dp_accounting.ZCDpEvent(rho, xi), delta - SAMPLER_DELTA
    library = RdpAccountant(list(ORDERS)).compose(event).get_epsilon(left)
    assert server_epsilon({"d": cost}, delta) == library
    assert epsilon(cost, delta) == pytest.approx(library, rel=1e-12, abs=1e-12)


def test_an_epsilon_needs_a_delta_between_zero_and_one() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, got 0"):
        epsilon(UNIT, 0)


# --- independent oracles: divergences of the true distributions, summed exactly


def renyi(p: NDArray[np.float64], shift: int, order: int) -> float:
    """Rényi divergence between a distribution on the integers and itself shifted; p over a window of its support."""
    there, here = p[shift:], p[:-shift]
    both = (there > 0) & (here > 0)
    terms = order * np.log(there[both]) + (1 - order) * np.log(here[both])
    return float(special.logsumexp(terms)) / (order - 1)


def discrete_gaussian(std: float) -> NDArray[np.float64]:
    x = np.arange(-60, 61)
    p = np.exp(-(x**2) / (2 * std**2))
    return np.asarray(p / p.sum(), np.float64)


@pytest.mark.parametrize("std", [0.4, 0.5, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("parts", [2, 5, 10])
def test_the_cost_of_a_sum_of_discrete_gaussians_covers_its_exact_divergence(std: float, parts: int) -> None:
    p = np.array([1.0])
    for _ in range(parts):
        p = np.convolve(p, discrete_gaussian(std)[60 - int(12 + 6 * std) : 61 + int(12 + 6 * std)])
    noise = RoundNoise(
        mechanism="discrete-gaussian", clip=1.0, sensitivity=1.0, local_noise=std, noise_shares=parts
    )
    cost = round_cost(noise, parts)
    for order in (2, 4, 8, 16):
        exact = renyi(p, 1, order)
        assert exact <= cost.xi + cost.rho * order + 1e-9
        # Without τ the bound would be false where noise is small: the term is needed, not decoration.
        if std <= 0.5 and parts == 2 and order >= 4:
            assert exact > cost.rho * order


@pytest.mark.parametrize("variance", [1.0, 4.0, 25.0, 100.0])
@pytest.mark.parametrize("distance", [1, 2, 5])
def test_the_cost_of_skellam_noise_covers_its_exact_divergence(variance: float, distance: int) -> None:
    p = special.ive(np.abs(np.arange(-300, 301)), variance)
    noise = RoundNoise(
        mechanism="skellam", clip=1.0, sensitivity=float(distance), local_noise=math.sqrt(variance)
    )
    cost = round_cost(noise, 1)
    for order in (2, 4, 8, 32):
        assert renyi(np.asarray(p, np.float64), distance, order) <= cost.xi + cost.rho * order + 1e-9


# --- noise as it was realised


def test_realised_noise_is_that_of_the_mechanism() -> None:
    parameters = PrivacyParameters(
        dimension=500, clip=2.0, noise_multiplier=1.1, cohort=20, maximum_dropouts=4, colluders=2, bits=20
    )
    for kind in NoiseKind:
        asked = PrivacyParameters(**{**vars(parameters), "noise": kind})
        for survivors in (3, 10, 16, 18, 20):
            expected = asked.realised(survivors).multiplier
            assert realised_multiplier(noise_of(asked), survivors) == pytest.approx(expected, rel=1e-12)


def test_the_planned_cost_is_that_of_the_fewest_survivors() -> None:
    noise = gaussian(1.0, cohort=20, dropouts=4, colluders=2)
    assert planned_cost(noise) == round_cost(noise, 16)
    assert round_cost(noise, 20).rho < round_cost(noise, 16).rho < round_cost(noise, 15).rho
    assert 1 / math.sqrt(2 * planned_cost(noise).rho) == pytest.approx(1.0, rel=0.01)


def test_no_noise_costs_without_limit() -> None:
    assert math.isinf(round_cost(RoundNoise(mechanism="none"), 100).rho)
    assert math.isinf(round_cost(gaussian(colluders=5), 5).rho), "only colluders are left"
    assert math.isinf(epsilon(PrivacyCost(rho=math.inf), DELTA))


def test_a_noised_question_without_its_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="needs clip, sensitivity and local_noise"):
        RoundNoise(mechanism="skellam", clip=1.0)


# --- laws


COSTS = st.builds(PrivacyCost, rho=st.floats(0.001, 2), xi=st.floats(0, 0.01))
ROUNDS = st.lists(
    st.tuples(
        COSTS,
        st.sets(st.integers(0, 5), min_size=1),
        st.sampled_from([CoinDraw(rate=0.05), CoinDraw(rate=0.2, forced=0.01), fixed(6, 6)]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(rounds=ROUNDS)
def test_epsilon_never_decreases(rounds: list[tuple[PrivacyCost, set[int], CoinDraw | FixedCohort]]) -> None:
    before = (0.0, 0.0)
    for count in range(len(rounds) + 1):
        part = rounds[:count]
        costs = add_up((cost, people) for cost, people, _ in part)
        seen = [UsedSum(cost=cost, sampling=sampling, is_gaussian=True) for cost, _, sampling in part]
        now = (server_epsilon(costs, DELTA), release_epsilon(seen, costs, DELTA))
        assert all(new >= old for new, old in zip(now, before, strict=True))
        before = now


def test_an_outsider_never_learns_more_than_the_server() -> None:
    rare = {"d": UNIT.times(2)}
    assert release_epsilon(sums(100, COINS), rare, DELTA) == server_epsilon(rare, DELTA) < 6.8


def test_a_fixed_cohort_never_gets_a_poisson_figure() -> None:
    everybody = {"d": UNIT.times(100)}
    secret = release_epsilon(sums(100, COINS), everybody, DELTA)
    mixed = release_epsilon([*sums(99, COINS), *sums(1, fixed())], everybody, DELTA)
    without_coins = release_epsilon(sums(100, fixed()), everybody, DELTA)
    assert secret < 7
    assert 81 < without_coins < mixed


def test_a_cohort_of_everybody_is_not_amplified() -> None:
    whole = release_epsilon(sums(1, fixed(100, 100)), {"d": UNIT}, DELTA)
    assert whole == pytest.approx(epsilon(UNIT.times(4), DELTA))


def test_a_fixed_cohort_that_can_be_guessed_is_not_amplified() -> None:
    guessed = release_epsilon(sums(1, fixed(1, 1000, is_secret=False)), {"d": UNIT}, DELTA)
    secret = release_epsilon(sums(1, fixed(1, 1000)), {"d": UNIT}, DELTA)
    assert guessed == pytest.approx(epsilon(UNIT.times(4), DELTA))
    assert secret < guessed


def test_skellam_noise_gets_no_gaussian_amplification() -> None:
    seen = [UsedSum(cost=UNIT, sampling=COINS, is_gaussian=False)] * 5
    costs = {"d": UNIT.times(5)}
    assert release_epsilon(seen, costs, DELTA) == server_epsilon(costs, DELTA)


def test_one_sum_without_noise_makes_both_figures_unlimited() -> None:
    bare = PrivacyCost(rho=math.inf)
    costs = add_up([(UNIT, ["a", "b"]), (bare, ["b"])])
    assert math.isinf(server_epsilon(costs, DELTA))
    assert math.isinf(release_epsilon([*sums(1, COINS), *sums(1, COINS, bare)], costs, DELTA))


def test_no_round_costs_nothing() -> None:
    assert (
        server_epsilon({}, DELTA)
        == release_epsilon([], {}, DELTA)
        == idealised_server_epsilon(0.0, DELTA)
        == 0
    )


def naive_server_epsilon(rounds: Sequence[tuple[PrivacyCost, set[int]]]) -> float:
    """The naive twin: a whole accountant for every device."""
    figures = [0.0]
    for device in {d for _, people in rounds for d in people}:
        accountant = RdpAccountant(list(ORDERS))
        for cost, people in rounds:
            if device in people:
                accountant.compose(dp_accounting.ZCDpEvent(cost.rho, cost.xi))
        figures.append(accountant.get_epsilon(DELTA))
    return max(figures)


@settings(max_examples=50, deadline=None)
@given(rounds=st.lists(st.tuples(COSTS, st.sets(st.integers(0, 5))), max_size=6))
def test_the_devices_that_gave_most_decide(rounds: list[tuple[PrivacyCost, set[int]]]) -> None:
    assert server_epsilon(add_up(rounds), DELTA) == pytest.approx(naive_server_epsilon(rounds), rel=1e-12)


# --- adaptive clipping


def test_the_clip_finds_the_quantile_of_the_norms() -> None:
    rng = np.random.default_rng(3)
    clip = AdaptiveClip(clip=0.1, quantile=0.8)
    for _ in range(200):
        norms = rng.lognormal(mean=1.0, sigma=0.3, size=100)
        bits = float((norms <= clip.clip).sum()) + rng.normal(0, clip_bit_noise(100))
        clip = clip.at(clip.next_clip(bits, 100))
    assert clip.clip == pytest.approx(np.exp(1.0 + 0.3 * 0.8416), rel=0.1)


def test_a_clip_stays_within_its_bounds_whatever_noise_says() -> None:
    clip = AdaptiveClip(clip=1.0, minimum=0.5, maximum=2.0)
    assert clip.next_clip(-1000, 10) == 2.0
    assert clip.next_clip(1000, 10) == 0.5


def test_updates_and_clip_bits_together_cost_what_the_multiplier_says() -> None:
    z, bits = 1.0, clip_bit_noise(100)
    updates = gaussian(update_noise_multiplier(z, bits))
    both = RoundNoise(
        **{f: getattr(updates, f) for f in updates.__struct_fields__} | {"clip_bit_noise": bits}
    )
    assert round_cost(both, 100).rho == pytest.approx(0.5 / z**2, rel=1e-3)
    assert round_cost(both, 100).rho > round_cost(updates, 100).rho


def test_clip_bits_that_cost_too_much_are_refused_with_a_way_out() -> None:
    with pytest.raises(PrivacyPlanError, match="raise the cohort above 21 devices"):
        update_noise_multiplier(2.0, clip_bit_noise(20))
    assert update_noise_multiplier(2.0, clip_bit_noise(22)) > 2.0


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"clip": 1.0, "quantile": 1.0}, {"clip": 1.0, "rate": 0.0}])
def test_a_clipping_rule_that_never_settles_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrivacyPlanError, match="adaptive clipping needs"):
        AdaptiveClip(**wrong)


@given(
    st.lists(
        st.builds(PrivacyCost, rho=st.integers(0, 4).map(float), xi=st.integers(0, 4).map(float)), max_size=8
    )
)
def test_only_costs_that_another_one_exceeds_in_both_numbers_are_left_out(costs: list[PrivacyCost]) -> None:
    def exceeds(one: PrivacyCost, other: PrivacyCost) -> bool:
        return one != other and one.rho >= other.rho and one.xi >= other.xi

    kept = {cost for cost in costs if not any(exceeds(other, cost) for other in costs)}
    found = accountant._worst(costs)
    assert set(found) == kept
    assert len(found) == len(kept)


def test_under_replacement_a_device_moves_twice_as_far_and_costs_four_times_as_much() -> None:
    assert accountant._replaced(PrivacyCost(rho=0.5, xi=0.25)) == PrivacyCost(rho=2.0, xi=1.0)
