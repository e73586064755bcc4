"""Canaries in cohorts that are drawn by coins, voids and all, as an outsider sees their sums.

Each device is a canary with a coordinate of its own, in which it pushes as hard as clipping lets it, or has nothing there, by a
fair coin. It is drawn, or not, again and again until a cohort has its quorum; the outsider sees the sums that came about. Some
runs are pooled: they are one mechanism of more canaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from ledger_world import FAMILY, devices, play
from numpy.typing import NDArray

from aggregator.privacy import figures as figures_module
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.ledger_entries import PoissonCohort, Sampling
from aggregator.privacy.poisson_draws import CoinDraw, largest_draw, nominal_size
from protocol.privacy.mechanism import PrivacyParameters, add_missing_noise, decode, encode
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
    """The same through the code that clips, rounds, adds noise, fills up and reads the sum; draws are coins, thousands at a time."""
    rng, parameters = np.random.default_rng(seed), story.parameters
    cohorts, scores, there = cohorts_that_come_about(story, rng), [], []
    taken = nominal_size(story.rate, story.population, story.quorum, story.largest)
    for _ in range(story.runs):
        fair, total = rng.random(story.population) < 0.5, np.zeros(story.population)
        for _ in range(story.rounds):
            drawn = next(cohorts)
            words = np.zeros(parameters.vector_length, np.uint64)
            for device in drawn:
                update = np.zeros(story.population)
                update[device] = 100.0 * fair[device]
                words += encode(update, parameters, rng.bytes, rotation_seed=b"audit")
            reduced = (words % np.uint64(1 << parameters.bits)).astype(np.uint32)
            reduced = add_missing_noise(reduced, parameters, rng.bytes, survivors=len(drawn))
            seen = decode(reduced, parameters, survivors=taken, rotation_seed=b"audit") * taken
            total += likelihood(seen, taken / story.population, story.spread)
        scores.append(total)
        there.append(fair)
    return np.concatenate(scores), np.concatenate(there)


def cohorts_that_come_about(story: Story, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Draws by `select_cohort`'s rule that are neither void nor too large."""
    while True:
        coins = rng.random((4096, story.population)) < story.rate
        sizes = coins.sum(axis=1)
        for row in np.flatnonzero((sizes >= story.quorum) & (sizes <= story.largest)):
            yield np.flatnonzero(coins[row])


def without_the_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account as it was: by the rate alone."""
    monkeypatch.setattr(figures_module, "coin_draw", lambda **told: CoinDraw(rate=told["rate"]))
