"""What a noised sum costs, worked out by hand: each formula with numbers small enough to check on paper."""

from __future__ import annotations

import math

import pytest

from protocol.privacy_cost import (
    ORDERS,
    PrivacyCost,
    RoundNoise,
    epsilon,
    planned_cost,
    realised_multiplier,
    round_cost,
)

pytestmark = pytest.mark.edge

GAUSSIAN = RoundNoise(
    mechanism="discrete-gaussian", clip=1.0, sensitivity=4.0, local_noise=2.0, noise_shares=9
)
SKELLAM = RoundNoise(mechanism="skellam", clip=1.0, sensitivity=2.0, local_noise=3.0)


def changed(noise: RoundNoise, **changes: object) -> RoundNoise:
    return RoundNoise(**{name: getattr(noise, name) for name in noise.__struct_fields__} | changes)  # type: ignore[arg-type]


def test_costs_add_up_and_none_of_them_is_none() -> None:
    cost = PrivacyCost(rho=0.5, xi=0.25)
    assert cost + PrivacyCost(rho=1.0, xi=2.0) == PrivacyCost(rho=1.5, xi=2.25)
    assert cost.times(3) == PrivacyCost(rho=1.5, xi=0.75)
    assert PrivacyCost(rho=math.inf).times(0) == PrivacyCost(rho=0.0, xi=0.0)


@pytest.mark.parametrize("missing", ["clip", "sensitivity", "local_noise"])
@pytest.mark.parametrize("noise", [GAUSSIAN, SKELLAM])
def test_a_noised_question_without_its_noise_is_refused_by_what_is_missing(
    noise: RoundNoise, missing: str
) -> None:
    with pytest.raises(
        ValueError, match=f"'{noise.mechanism}' needs clip, sensitivity and local_noise, got .*None"
    ):
        changed(noise, **{missing: None})


@pytest.mark.parametrize(
    ("survivors", "changes", "shares"),
    [
        (9, {}, 9.0),
        (9, {"colluders": 5}, 4.0),  # they know their own noise and subtract it
        (5, {"colluders": 5}, 0.0),
        (3, {"colluders": 5}, 0.0),
        (10, {"noise_shares": 4, "colluders": 1}, 9.0),
    ],
)
def test_a_sum_carries_the_noise_of_its_honest_devices(
    survivors: int, changes: dict[str, object], shares: float
) -> None:
    # √shares · 2 / 4: each device's noise over the sensitivity.
    expected = math.sqrt(shares) / 2
    assert realised_multiplier(changed(GAUSSIAN, **changes), survivors) == pytest.approx(expected)
    if not shares:
        assert round_cost(changed(GAUSSIAN, **changes), survivors) == PrivacyCost(rho=math.inf)


def test_a_sum_without_noise_protects_nobody() -> None:
    none = RoundNoise(mechanism="none")
    assert realised_multiplier(none, 100) == 0.0
    assert round_cost(none, 100) == planned_cost(none) == PrivacyCost(rho=math.inf)
    with_figures = RoundNoise(mechanism="none", clip=1.0, sensitivity=1.0, local_noise=1.0)
    assert round_cost(with_figures, 100).rho == math.inf


def test_a_gaussian_sum_costs_half_over_z_squared_and_a_gap_for_each_coordinate() -> None:
    cost = round_cost(GAUSSIAN, 9)
    assert cost.rho == pytest.approx(0.5 / 1.5**2)
    assert cost.xi == pytest.approx(0.0, abs=1e-12)
    # Theorem 1 of arXiv:2102.06387 with σ = 1/2 and three honest parts: 10·Σ exp(-2π²σ²·j/(j+1)) for j = 1, 2.
    coarse = changed(GAUSSIAN, local_noise=0.5, dimension=7, colluders=1)
    gap = 10 * (math.exp(-(math.pi**2) / 4) + math.exp(-(math.pi**2) / 3))
    assert round_cost(coarse, 4).xi == pytest.approx(7 * gap)
    assert round_cost(changed(coarse, dimension=1), 4).xi == pytest.approx(gap)
    assert round_cost(changed(coarse, colluders=0), 1).xi == 0.0, "one Gaussian is one Gaussian"


def test_a_skellam_sum_costs_the_better_of_two_bounds() -> None:
    # Theorem 3.5 of arXiv:2110.04995 with Δ² = 4, μ = 9, one coordinate: Δ1 = min(Δ², √1·Δ) = 2.
    fine = PrivacyCost(rho=4 / 18 + 4 / 162, xi=(12 - 4) / 324)
    assert close(round_cost(SKELLAM, 1), fine)
    # In many coordinates Δ1 is Δ² = 4, and never more than that.
    wide = PrivacyCost(rho=4 / 18 + 4 / 162, xi=(24 - 4) / 324)
    assert close(round_cost(changed(SKELLAM, dimension=4), 1), wide)
    assert close(round_cost(changed(SKELLAM, dimension=400), 1), wide)
    # Where noise is smaller than the vector the second bound, with 3·Δ1/2μ and no 1/μ², is the lower one.
    little = changed(SKELLAM, sensitivity=8.0, local_noise=0.5)
    assert close(round_cost(little, 1), PrivacyCost(rho=64 / 0.5, xi=3 * 8 / 0.5))
    # A vector so long that 6·Δ1 < Δ² pays no negative price.
    assert round_cost(changed(SKELLAM, sensitivity=8.0, local_noise=100.0), 1).xi == 0.0


def close(one: PrivacyCost, other: PrivacyCost) -> bool:
    return math.isclose(one.rho, other.rho, rel_tol=1e-9) and math.isclose(
        one.xi, other.xi, rel_tol=1e-9, abs_tol=1e-12
    )


def test_more_survivors_than_planned_cost_less_and_the_plan_is_the_worst() -> None:
    noise = changed(GAUSSIAN, noise_shares=4, colluders=2)
    assert planned_cost(noise) == round_cost(noise, 6)
    assert round_cost(noise, 7).rho < planned_cost(noise).rho < round_cost(noise, 5).rho


def test_bits_that_are_summed_beside_the_update_are_paid_for() -> None:
    # One device moves the sum of ±1/2 by 1/2: ρ = (1/2)²/(2σ²), for the share of the noise that honest devices add.
    plain, with_bits = GAUSSIAN, changed(GAUSSIAN, clip_bit_noise=2.0)
    assert round_cost(with_bits, 9).rho - round_cost(plain, 9).rho == pytest.approx(0.125 / 4)
    assert round_cost(with_bits, 3).rho - round_cost(plain, 3).rho == pytest.approx(3 * 0.125 / 4)


def test_epsilon_is_the_smallest_over_the_orders() -> None:
    assert (*range(2, 129), 256, 512) == ORDERS
    # By hand at one order: ξ + ρα + log(1 - 1/α) - log(δα)/(α - 1); at ρ = 1/2 and δ = 1e-5 the best order is 5.
    by_hand = {a: 0.25 + 0.5 * a + math.log(1 - 1 / a) - math.log(1e-5 * a) / (a - 1) for a in ORDERS}
    best = min(by_hand, key=by_hand.__getitem__)
    assert best == 5
    assert epsilon(PrivacyCost(rho=0.5, xi=0.25), 1e-5) == pytest.approx(by_hand[5])


def test_nothing_given_costs_nothing_and_a_little_is_never_negative() -> None:
    assert epsilon(PrivacyCost(rho=0.0), 1e-6) == 0.0
    assert epsilon(PrivacyCost(rho=0.0, xi=1.0), 1e-6) > 1.0
    assert epsilon(PrivacyCost(rho=1e-9), 0.9) == 0.0
    assert epsilon(PrivacyCost(rho=math.inf), 1e-6) == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, 2.0, math.nan])
def test_a_delta_lies_strictly_between_0_and_1(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must be between 0 and 1"):
        epsilon(PrivacyCost(rho=0.0), delta)


def test_the_sampler_takes_its_share_of_every_delta() -> None:
    cost = PrivacyCost(rho=0.5)
    assert epsilon(cost, 2.0**-50) == math.inf
    assert epsilon(cost, 2.0**-49) == pytest.approx(
        min(0.5 * a + math.log1p(-1 / a) - math.log(2.0**-50 * a) / (a - 1) for a in ORDERS), rel=1e-12
    )
    # 2^50 samples, each at most 2^-298 from its definition, wherever a figure means anything at all.
    assert 2.0**50 * 2.0**-298 * (1 + math.exp(136)) < 2.0**-50
