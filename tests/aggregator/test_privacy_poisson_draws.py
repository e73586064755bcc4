"""Sums of coins that came about: what they cost is proved by integrals of the true laws, and never claimed lower."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ledger_world import FAMILY, accounts_at, devices, gaussian, play, poisson, question
from poisson_oracles import hockey_stick, laws_by_enumeration, pld_epsilon, renyi
from scipy import stats

from aggregator.errors import PrivacyPlanError
from aggregator.privacy import accountant
from aggregator.privacy.accountant import UsedSum, release_epsilon
from aggregator.privacy.figures import figures, planned_sum, used_sum
from aggregator.privacy.ledger_entries import FixedCohort, PoissonCohort
from aggregator.privacy.poisson_draws import (
    CoinDraw,
    coin_draw,
    largest_draw,
    nominal_size,
    require_few_voids,
    void_share,
)
from aggregator.privacy.settings import FamilyBudget
from protocol.names import RunId
from protocol.privacy_cost import ORDERS, PrivacyCost

X = np.linspace(-30, 30, 4001)
OTHERS = {
    "nobody else has anything": (0.0,) * 7,
    "all pull the same way": (1.0,) * 7,
    "all pull the other way": (-1.0,) * 7,
    "they cancel": (1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0),
}


def bound(draw: CoinDraw, z: float) -> np.ndarray:
    return accountant._curve(draw, z, poisson=True)


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize(("quorum", "largest"), [(1, 8), (3, 5), (4, 8)])
@pytest.mark.parametrize("z", [0.7, 2.0])
def test_no_true_divergence_of_a_sum_that_came_about_exceeds_its_account(
    others: tuple[float, ...], quorum: int, largest: int, z: float
) -> None:
    draw = coin_draw(rate=0.3, population=8, largest=largest, quorum=quorum)
    shape = {"rate": 0.3, "others": others, "quorum": quorum, "largest": largest, "std": z, "x": X}
    real, blank = laws_by_enumeration(own=1.0, **shape)  # type: ignore[arg-type]
    for order in (2, 4, 8):
        allowed = bound(draw, z)[ORDERS.index(order)]
        for p, q in ((real, blank), (blank, real)):
            assert renyi(p, q, order, X) <= allowed + 1e-7


def test_neither_the_rate_nor_the_mean_rate_covers_what_a_quorum_forces_and_the_account_is_near() -> None:
    """Decision 0026's example: the others pull the other way."""
    shape = {"rate": 0.1, "quorum": 3, "largest": 8, "std": 1.0, "x": X}
    real, blank = laws_by_enumeration(others=(-1.0,) * 7, own=1.0, **shape)  # type: ignore[arg-type]
    sizes = np.arange(3, 9)
    came_about = stats.binom.pmf(sizes, 8, 0.1)
    mean_rate = float(sizes @ came_about / came_about.sum() / 8)
    draws = (
        CoinDraw(rate=0.1),
        CoinDraw(rate=mean_rate),
        coin_draw(rate=0.1, population=8, largest=8, quorum=3),
    )
    by_rate, by_mean_rate, accounted = (bound(draw, 1.0)[ORDERS.index(4)] for draw in draws)
    true = renyi(real, blank, 4, X)
    assert (by_mean_rate, true, accounted) == pytest.approx((0.880, 1.612, 1.628), abs=1e-3)
    assert by_rate < by_mean_rate < true <= accounted


GRID = [
    (1000, 0.1, 50, 1.0, 100),
    (1000, 0.1, 85, 1.0, 30),
    (300, 0.1, 14, 2.0, 50),
    (100, 0.2, 14, 1.0, 10),
    (100, 0.1, 8, 4.0, 40),
    (60, 0.5, 25, 1.5, 20),
]


@pytest.mark.parametrize(("population", "rate", "quorum", "z", "rounds"), GRID)
def test_the_claim_is_no_smaller_than_that_of_privacy_loss_distributions(
    population: int, rate: float, quorum: int, z: float, rounds: int
) -> None:
    largest = largest_draw(rate, population, quorum)
    draw = coin_draw(rate=rate, population=population, largest=largest, quorum=quorum)
    cost = PrivacyCost(rho=0.5 / z**2)
    sums = [UsedSum(cost=cost, sampling=draw, is_gaussian=True)] * rounds
    claimed = release_epsilon(sums, {"all": cost.times(rounds)}, 1e-5)
    independent = pld_epsilon(rate=rate, forced=draw.forced, multiplier=z, rounds=rounds, delta=1e-5)
    assert independent <= claimed
    assert claimed <= 1.5 * independent + 0.5, "an account, not a wild guess"


def test_the_two_stories_of_the_review_are_refused_and_cost_what_they_cost() -> None:
    for population, rate, quorum, claimed in ((100, 0.1, 14, 7.97), (50, 0.05, 6, 4.11)):
        with pytest.raises(PrivacyPlanError, match="One of these would do"):
            require_few_voids("train.fit", rate, population, quorum)
        draw = coin_draw(rate=rate, population=population, largest=population, quorum=quorum)
        sums = [UsedSum(cost=PrivacyCost(rho=0.5), sampling=draw, is_gaussian=True)] * 20
        honest = release_epsilon(sums, {"d": PrivacyCost(rho=10.0)}, 1e-6)
        assert honest > claimed


@pytest.mark.parametrize(("population", "rate", "quorum"), [(100, 0.1, 14), (50, 0.05, 6), (12, 0.5, 10)])
def test_each_way_out_of_likely_voids_is_one_and_the_nearest(
    population: int, rate: float, quorum: int
) -> None:
    import re

    with pytest.raises(PrivacyPlanError) as refusal:
        require_few_voids("train.fit", rate, population, quorum)
    words = str(refusal.value)
    assert f"{void_share(rate, population, quorum):.0%} of the time" in words
    higher = float(re.findall(r"cohort.fraction ([\d.]+) instead", words)[0])
    lower = int(re.findall(r"minimum_devices (\d+) instead", words)[0])
    more = int(re.findall(r"(\d+) devices instead", words)[0])
    for r, n, m in ((higher, population, quorum), (rate, population, lower), (rate, more, quorum)):
        require_few_voids("train.fit", r, n, m)
    for r, n, m in ((higher - 0.001, population, quorum), (rate, population, lower + 1)):
        with pytest.raises(PrivacyPlanError):
            require_few_voids("train.fit", r, n, m)


@pytest.mark.parametrize(("population", "rate"), [(1, 0.5), (8, 0.3), (100, 0.1), (1000, 0.02), (5, 1.0)])
def test_chances_are_those_of_scipy(population: int, rate: float) -> None:
    for quorum in range(1, min(population, 12) + 1):
        assert void_share(rate, population, quorum) == pytest.approx(
            stats.binom.cdf(quorum - 1, population, rate), abs=1e-12
        )
        draw = coin_draw(rate=rate, population=population, largest=population, quorum=quorum)
        expected = (
            rate
            * stats.binom.pmf(quorum - 1, population - 1, rate)
            / stats.binom.sf(quorum - 1, population, rate)
        )
        assert draw.forced == pytest.approx(expected, rel=1e-9)
    largest = largest_draw(rate, population, 1)
    assert stats.binom.sf(largest, population, rate) <= 0.01
    assert (
        largest in {1, population}
        or stats.binom.sf(largest - 1, population, rate) > 0.01
        or largest == int(rate * population)
    )


def test_a_larger_quorum_more_silence_and_fewer_devices_never_cost_less() -> None:
    shares = [coin_draw(rate=0.1, population=200, largest=40, quorum=m).forced for m in range(1, 25)]
    assert shares == sorted(shares)
    shares = [coin_draw(rate=0.1, population=200, largest=40, quorum=10, silent=s).forced for s in range(8)]
    assert shares == sorted(shares)
    assert coin_draw(rate=0.1, population=200, largest=40, quorum=10, silent=30).forced == 1.0, (
        "only the quorum was there"
    )


def test_a_cohort_whose_size_everybody_may_know_is_a_sample_without_replacement(tmp_path: object) -> None:
    noise, old = gaussian(1.0, cohort=30, dropouts=10), PoissonCohort(rate=0.1, population=300)
    assert planned_sum(noise, old).sampling == FixedCohort(size=43, population=300, is_secret=True)


def test_towards_outsiders_a_sum_carries_the_noise_of_the_largest_draw_whoever_is_in_it(
    tmp_path: object,
) -> None:
    sampling = poisson(0.1, 300, quorum=20)
    noise = gaussian(1.0, cohort=sampling.largest, dropouts=sampling.largest - 20)  # type: ignore[operator]
    accounts = accounts_at(tmp_path)  # type: ignore[arg-type]
    for number, size in ((1, 22), (2, 35)):
        play(accounts, number, devices(size), noise=noise, sampling=sampling)
    few, many = (used_sum(held) for held in accounts.rounds(FAMILY))
    assert few == many
    held = accounts.rounds(FAMILY)
    assert held[0].cost.rho > held[1].cost.rho > few.cost.rho, "the server knows what it added"


def test_a_claim_of_hidden_sizes_is_the_same_whoever_was_drawn(tmp_path: object) -> None:
    sampling = poisson(0.1, 300, quorum=20)
    noise = gaussian(1.0, cohort=sampling.largest, dropouts=sampling.largest - 20)  # type: ignore[operator]
    claims = []
    for story in ((22, 30, 25), (35, 24, 40)):
        accounts = accounts_at(tmp_path / str(story))  # type: ignore[operator]
        for number, size in enumerate(story, 1):
            play(accounts, number, devices(size), noise=noise, sampling=sampling)
        claims.append(accounts.claim(FAMILY, RunId("run-1")))
    first, second = claims
    assert first.ledger_sha256 != second.ledger_sha256
    assert first == type(first)(
        **{f: getattr(second, f) for f in second.__struct_fields__} | {"ledger_sha256": first.ledger_sha256}
    )


def test_the_digest_in_a_release_is_no_test_for_a_guess_of_who_was_drawn(tmp_path: object) -> None:
    heads = []
    for folder in ("a", "b"):
        accounts = accounts_at(tmp_path / folder)  # type: ignore[operator]
        play(accounts, 1, devices(4), noise=gaussian(cohort=4), sampling=poisson(0.5, 8))
        heads.append(accounts.claim(FAMILY, RunId("run-1")).ledger_sha256)
    assert heads[0] != heads[1], "the same devices at the same second, and yet another digest"


def test_a_run_of_likely_voids_is_refused_before_anybody_is_asked(tmp_path: object) -> None:
    accounts = accounts_at(tmp_path)  # type: ignore[arg-type]
    noise = gaussian(1.0, cohort=20, dropouts=6)
    with pytest.raises(
        PrivacyPlanError,
        match=r"train.fit: coins of 0.1 over 100 devices draw fewer than the quorum of 14 88% of the time",
    ):
        accounts.plan_run(RunId("run-1"), FAMILY, [question(5, noise, poisson(0.1, 100, quorum=14))])
    assert accounts.rounds(FAMILY) == ()


def test_the_size_a_sum_is_taken_to_be_of_is_what_was_to_be_expected() -> None:
    assert nominal_size(0.1, 1000, 50, 122) == 100
    assert nominal_size(0.1, 100, 14, 18) == 14
    assert nominal_size(0.5, 10, 3, 4) == 4


def test_the_plan_of_a_run_is_its_price_when_everybody_answers(tmp_path: object) -> None:
    sampling = poisson(0.2, 200, quorum=25)
    noise = gaussian(1.5, cohort=sampling.largest, dropouts=sampling.largest - 25)  # type: ignore[operator]
    plan = [question(4, noise, sampling)]
    unlimited = accounts_at(tmp_path / "a").plan_run(RunId("run-1"), FAMILY, plan)  # type: ignore[operator]
    # As little as the plan needs: no round of it is refused on the way.
    budget = FamilyBudget(epsilon_release=unlimited.release, epsilon_server=unlimited.server)
    accounts = accounts_at(tmp_path / "b", budget)  # type: ignore[operator]
    promised = accounts.plan_run(RunId("run-1"), FAMILY, plan)
    for number in range(1, 5):
        play(accounts, number, devices(200)[10 * number : 10 * number + 38], noise=noise, sampling=sampling)
    assert figures(accounts.rounds(FAMILY), 1e-6).release <= promised.release * (1 + 1e-12)
    assert math.isfinite(promised.release)


def test_the_oracle_finds_the_delta_of_a_plain_gaussian() -> None:
    real, blank = laws_by_enumeration(rate=1.0, others=(), own=1.0, quorum=1, largest=1, std=1.0, x=X)
    # Balle & Wang: ε = 1, σ = 1 has δ = 0.1269.
    assert hockey_stick(real, blank, 1.0, X) == pytest.approx(0.12693673750664395, abs=1e-9)
