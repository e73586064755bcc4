"""An outsider's view of cohorts that were drawn by coins, voids and all: how sure can one be that a device contributed?

Each device is a canary with a coordinate of its own, in which it pushes as hard as clipping lets it, or has nothing there, by a
fair coin. It is drawn, or not, by `select_cohort`, again and again until a cohort has its quorum; the outsider sees the sums that came about. What
its guesses prove (`one_run_audit`) must stay below what is claimed. Some runs are pooled: they are one mechanism of more canaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from ledger_world import FAMILY, accounts_at, devices, play
from numpy.typing import NDArray
from one_run_audit import p_value, proven_epsilon

from aggregator.privacy import figures as figures_module
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.ledger_entries import FixedCohort, PoissonCohort, Sampling
from aggregator.privacy.poisson_draws import CoinDraw, largest_draw
from aggregator.privacy.settings import FamilyBudget
from aggregator.rounds.cohorts import CohortSettings, select_cohort
from protocol.privacy import mechanism
from protocol.privacy.mechanism import PrivacyParameters, add_missing_noise, decode, encode
from protocol.privacy.randomness import RandomStream
from protocol.privacy_cost import noise_of

DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Story:
    """How a family draws and adds up: `rounds` sums a run, `runs` of them pooled."""

    population: int
    rate: float
    quorum: int
    z: float
    rounds: int
    runs: int

    @property
    def largest(self) -> int:
        return largest_draw(self.rate, self.population, self.quorum)

    @property
    def sampling(self) -> PoissonCohort:
        return PoissonCohort(rate=self.rate, population=self.population, largest=self.largest)

    @property
    def parameters(self) -> PrivacyParameters:
        return PrivacyParameters(
            dimension=self.population,
            clip=1.0,
            noise_multiplier=self.z,
            cohort=self.largest,
            maximum_dropouts=self.largest - self.quorum,
            bits=20,
        )

    @property
    def spread(self) -> float:
        """Of the noise that an outsider sees, over the clip."""
        return self.z * (self.largest / self.quorum) ** 0.5


VOID_MOSTLY = Story(population=40, rate=0.08, quorum=11, z=4.0, rounds=150, runs=110)
"""Of ten thousand draws two come about: they take 28 of a hundred devices, and the rate says eight."""

LIKELY = Story(population=100, rate=0.5, quorum=40, z=4.0, rounds=20, runs=60)


def claimed(accounts: PrivacyAccounts, story: Story, sampling: Sampling) -> tuple[float, float]:
    """Both figures after the story's rounds."""
    noise = noise_of(story.parameters)
    there = devices(story.population)
    for number in range(1, story.rounds + 1):
        play(accounts, number, there[: story.quorum], noise=noise, sampling=sampling)
    found = accounts.figures(FAMILY)
    return found.server, found.release


def sizes_that_come_about(story: Story, rng: np.random.Generator) -> Iterator[int]:
    """How many coins fall, of draws that are neither void nor too large; all others are drawn and passed by."""
    while True:
        sizes = rng.binomial(story.population, story.rate, 100_000)
        yield from sizes[(sizes >= story.quorum) & (sizes <= story.largest)].tolist()


def ideal_sums(
    story: Story, rng: np.random.Generator, noise: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(each canary's score, whether it was there): the Gaussian that the noise is made to look like, coordinate by coordinate."""
    scores, there, sizes = [], [], sizes_that_come_about(story, rng)
    for _ in range(story.runs):
        fair = rng.random(story.population) < 0.5
        total = np.zeros(story.population)
        for _ in range(story.rounds):
            seen = rng.normal(0.0, story.spread * noise, story.population)
            drawn = rng.permutation(story.population)[: next(sizes)]
            seen[drawn] += fair[drawn]
            total += likelihood(seen, len(drawn) / story.population, story.spread)
        scores.append(total)
        there.append(fair)
    return np.concatenate(scores), np.concatenate(there)


def likelihood(seen: NDArray[np.float64], share: float, spread: float) -> NDArray[np.float64]:
    return np.log1p(share * np.expm1((seen - 0.5) / spread**2))


def real_sums(story: Story, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The same through the code that draws, clips, rounds, adds noise, fills up and reads the sum."""
    rng, parameters = np.random.default_rng(seed), story.parameters
    everybody = devices(story.population)
    index = {device: number for number, device in enumerate(everybody)}
    how = CohortSettings(fraction=story.rate, minimum_devices=story.quorum, sampling="poisson")
    scores, there = [], []
    for _ in range(story.runs):
        fair, total = rng.random(story.population) < 0.5, np.zeros(story.population)
        for _ in range(story.rounds):
            cohort = select_cohort(everybody, how, rng)
            while len(cohort.devices) < cohort.quorum:
                cohort = select_cohort(everybody, how, rng)
            words = np.zeros(parameters.vector_length, np.uint64)
            for device in cohort.devices:
                update = np.zeros(story.population)
                update[index[device]] = 100.0 * fair[index[device]]
                words += encode(update, parameters, rng.bytes, rotation_seed=b"audit")
            reduced = (words % np.uint64(1 << parameters.bits)).astype(np.uint32)
            reduced = add_missing_noise(reduced, parameters, rng.bytes, survivors=len(cohort.devices))
            taken = cohort.taken_as or 1
            seen = decode(reduced, parameters, survivors=taken, rotation_seed=b"audit") * taken
            total += likelihood(seen, taken / story.population, story.spread)
        scores.append(total)
        there.append(fair)
    return np.concatenate(scores), np.concatenate(there)


def without_the_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures_module, "coin_draw", lambda **told: CoinDraw(rate=told["rate"]))


def test_the_audit_catches_an_account_that_believes_the_rate(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven = proven_epsilon(*ideal_sums(VOID_MOSTLY, np.random.default_rng(5)), DELTA)
    budget = FamilyBudget(delta=DELTA)
    _, honest = claimed(accounts_at(tmp_path / "a", budget), VOID_MOSTLY, VOID_MOSTLY.sampling)  # type: ignore[operator]
    without_the_correction(monkeypatch)
    _, naive = claimed(accounts_at(tmp_path / "b", budget), VOID_MOSTLY, VOID_MOSTLY.sampling)  # type: ignore[operator]
    assert naive < proven < honest


@pytest.mark.parametrize("sampling", [None, FixedCohort(size=100, population=100)])
def test_the_audit_proves_less_than_is_claimed_and_catches_three_tenths_of_the_noise(
    tmp_path: object, sampling: Sampling | None
) -> None:
    """Towards an outsider who sees coins, and towards one who knows that everybody was there, as the server does."""
    story = (
        LIKELY if sampling is None else Story(population=100, rate=1.0, quorum=100, z=3.0, rounds=1, runs=60)
    )
    accounts = accounts_at(tmp_path, FamilyBudget(delta=DELTA))  # type: ignore[arg-type]
    server, release = claimed(accounts, story, sampling or story.sampling)
    claim = release if sampling is None else server
    proven = proven_epsilon(*ideal_sums(story, np.random.default_rng(6)), DELTA)
    assert 0.2 * claim < proven < claim
    mutant = proven_epsilon(*ideal_sums(story, np.random.default_rng(6), noise=0.3), DELTA)
    assert mutant > claim


def test_the_auditor_proves_nothing_from_coins_and_much_from_certainty() -> None:
    rng = np.random.default_rng(7)
    assert proven_epsilon(rng.normal(size=3000), rng.random(3000) < 0.5, DELTA) < 0.3
    there = rng.random(3000) < 0.5
    assert proven_epsilon(there.astype(float), there, DELTA) > 4
    # Randomised response that is right three times in four is ε = log 3, and never proved to be more.
    told = np.where(rng.random(100_000) < 0.75, 1, -1) * np.where(rng.random(100_000) < 0.5, 1, -1)
    assert told.shape == (100_000,)
    truth = rng.random(100_000) < 0.5
    answers = np.where(rng.random(100_000) < 0.75, truth, ~truth).astype(float)
    assert 0.9 < proven_epsilon(answers, truth, 0.0) < np.log(3)
    assert p_value(1000, 100, 75, np.log(3), 0.0) == pytest.approx(0.55, abs=0.05)


@pytest.mark.long
def test_a_long_audit_through_the_real_mechanism_catches_both_mutants(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = FamilyBudget(delta=DELTA)
    void_often = Story(population=40, rate=0.1, quorum=12, z=4.0, rounds=160, runs=120)
    proven = proven_epsilon(*real_sums(void_often, seed=8), DELTA)
    _, honest = claimed(accounts_at(tmp_path / "a", budget), void_often, void_often.sampling)  # type: ignore[operator]
    assert proven < honest
    likely = proven_epsilon(*real_sums(LIKELY, seed=9), DELTA)
    _, claim = claimed(accounts_at(tmp_path / "b", budget), LIKELY, LIKELY.sampling)  # type: ignore[operator]
    assert 0.2 * claim < likely < claim
    with monkeypatch.context() as patch:
        without_the_correction(patch)
        _, naive = claimed(accounts_at(tmp_path / "c", budget), void_often, void_often.sampling)  # type: ignore[operator]
    assert naive < proven
    genuine = mechanism.draw_discrete_gaussian

    def weakened(count: int, std: float, stream: RandomStream) -> np.ndarray:
        return genuine(count, 0.3 * std, stream)

    monkeypatch.setattr(mechanism, "draw_discrete_gaussian", weakened)
    assert proven_epsilon(*real_sums(LIKELY, seed=9), DELTA) > claim
    print(f"void path: claimed by the rate {naive:.2f}, proven {proven:.2f}, claimed {honest:.2f}")
