"""Exact noise: whatever number of devices vanish, what stays in the sum is the planned noise and nothing else."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from privacy_oracles import chi_square_deviations, seeded_bytes, skellam_pmf

from protocol.privacy.errors import ParameterError, SeedError, UnderNoisedError
from protocol.privacy.exact_noise import (
    component_variances,
    draw_seeds,
    grow_noise,
    revealed_components,
    surplus_noise,
)
from protocol.privacy.mechanism import PrivacyParameters, decode, encode, remove_surplus
from protocol.privacy.parameters import NoiseKind

pytestmark = pytest.mark.edge

COHORT, DROPOUTS = 8, 5


def parameters(**changes: float) -> PrivacyParameters:
    return PrivacyParameters(
        **{
            "dimension": 20_000,
            "clip": 1.0,
            "noise_multiplier": 1.5,
            "cohort": COHORT,
            "maximum_dropouts": DROPOUTS,
            "bits": 10,
            "noise": NoiseKind.EXACT_SKELLAM,
        }
        | changes
    )


@pytest.mark.parametrize(("cohort", "tolerated"), [(1, 0), (8, 5), (100, 30), (128, 127)])
def test_the_components_leave_the_planned_variance_after_every_dropout(cohort: int, tolerated: int) -> None:
    n = cohort
    exact = [Fraction(1, n), *(Fraction(1, (n - j) * (n - j + 1)) for j in range(1, tolerated + 1))]
    np.testing.assert_allclose(component_variances(1.0, n, tolerated), [float(v) for v in exact], rtol=1e-15)
    for dropped in range(tolerated + 1):
        kept = [j for j in range(tolerated + 1) if j not in revealed_components(dropped, tolerated)]
        assert (n - dropped) * sum(exact[j] for j in kept) == 1
    assert sum(exact) == Fraction(1, n - tolerated)


@pytest.mark.parametrize("dropped", range(DROPOUTS + 1))
def test_the_sums_noise_is_as_planned_under_every_dropout_count(dropped: int) -> None:
    plan, random_bytes = parameters(), seeded_bytes(dropped)
    seeds = [draw_seeds(DROPOUTS, random_bytes) for _ in range(COHORT)]
    words = [encode(np.zeros(20_000), plan, random_bytes, noise_seeds=s) for s in seeds]
    survivors = range(dropped, COHORT)
    total = (np.sum(words[dropped:], axis=0, dtype=np.uint64) % (1 << plan.bits)).astype(np.uint32)
    revealed = [[seeds[i][j] for j in revealed_components(dropped, DROPOUTS)] for i in survivors]
    cleaned = remove_surplus(total, plan, revealed)

    error = decode(cleaned, plan, survivors=len(survivors)) * len(survivors)
    assert error.std() == pytest.approx(1.5, rel=0.02)
    steps = (cleaned.astype(np.int64) + 512) % 1024 - 512
    pmf = skellam_pmf(plan.exact_variance, math.ceil(6 * math.sqrt(plan.exact_variance)))
    assert chi_square_deviations(steps, pmf) < 3.5
    # To the last bit: what stays is the kept components of the survivors.
    variances = component_variances(plan.exact_variance, COHORT, DROPOUTS)
    kept = sum(
        grow_noise(seeds[i][: dropped + 1], variances[: dropped + 1], plan.vector_length) for i in survivors
    )
    assert np.array_equal(steps, kept)
    if dropped < DROPOUTS:
        noisier = decode(total, plan, survivors=len(survivors)) * len(survivors)
        assert noisier.std() > 1.03 * error.std()


def test_colluders_take_away_only_what_was_added_for_them() -> None:
    plan = parameters(colluders=2, maximum_dropouts=3)
    # Three gone, two colluding: three honest devices' share of the whole must be the planned noise.
    honest_variance = plan.exact_variance * 3 / 5
    assert math.sqrt(honest_variance) == pytest.approx(1.5 * plan.clip * plan.scale)


def test_the_worst_case_reveals_nothing_and_no_dropout_reveals_most() -> None:
    assert list(revealed_components(5, 5)) == []
    assert list(revealed_components(0, 5)) == [1, 2, 3, 4, 5]


def test_more_dropouts_than_planned_reveal_nothing() -> None:
    with pytest.raises(ParameterError, match="at most 5 dropouts, got 6"):
        revealed_components(6, 5)
    with pytest.raises(UnderNoisedError, match="2 of 8 devices"):
        remove_surplus(np.zeros(20_000, np.uint32), parameters(), [[]] * 2)


def test_seeds_that_do_not_fit_the_plan_are_refused() -> None:
    with pytest.raises(SeedError, match="needs one seed for each of 2 noise components, got 1"):
        grow_noise([bytes(32)], (1.0, 2.0), 3)
    with pytest.raises(SeedError, match=r"survivor 1 must reveal 2 seeds for components 1..2, got 1"):
        surplus_noise([[bytes(32)] * 2, [bytes(32)]], (1.0, 1.0, 1.0), 0, 3)
    with pytest.raises(ParameterError, match="maximum_dropouts must be in"):
        component_variances(1.0, 4, 4)
