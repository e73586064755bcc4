"""An outsider's view of cohorts that were drawn by coins, voids and all: how sure can one be that a device contributed?

What guesses prove (`one_run_audit`) must stay below what is claimed; `prove_privacy_audit.py` says it of the real mechanism.
"""

from __future__ import annotations

import numpy as np
import pytest
from audit_world import (
    DELTA,
    LIKELY,
    VOID_MOSTLY,
    Story,
    claimed,
    ideal_sums,
    without_the_correction,
)
from ledger_world import accounts_at
from one_run_audit import p_value, proven_epsilon

from aggregator.privacy.ledger_entries import FixedCohort, Sampling
from aggregator.privacy.settings import FamilyBudget


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
