"""The exact interval of a Poisson rate, without SciPy on a device: SciPy is the oracle here."""

from __future__ import annotations

import pytest
from scipy.stats import chi2

from models.detection.poisson import poisson_interval


@pytest.mark.parametrize("count", [0, 1, 2, 7, 60, 1000, 30_000])
def test_the_poisson_interval_is_exact(count: int) -> None:
    low, high = poisson_interval(count)
    assert low == pytest.approx(chi2.ppf(0.025, 2 * count) / 2 if count else 0.0, rel=1e-8)
    assert high == pytest.approx(chi2.ppf(0.975, 2 * count + 2) / 2, rel=1e-8)
