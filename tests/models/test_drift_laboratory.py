"""The laboratory compares with what it says: its vectorised rivals are river's, its worlds what their names say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

river = pytest.importorskip("river.drift", reason="river is the peer that the laboratory measures")
stats = pytest.importorskip("scipy.stats", reason="SciPy is the oracle of the distance")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from drift_lab.curves import World, healthy_maxima, level_for, run_length_of  # noqa: E402 - needs the path above
from drift_lab.ours import OurDetectors  # noqa: E402 - as above
from drift_lab.rivals import PageHinkleyLives, PsiLives, ks_distance  # noqa: E402 - as above
from drift_lab.worlds import CHANGES, DISTRIBUTIONS, known_reference, latent_lives, live  # noqa: E402 - as above


def test_page_hinkley_over_many_lives_alarms_where_rivers_does() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((600, 12))
    rows[300:] += np.linspace(-1.5, 1.5, 12)
    level = 20.0
    many = PageHinkleyLives(known_reference("gaussian", 12), random)
    ours = np.stack([many.update(row) for row in rows]) > level
    for life in range(12):
        single, theirs = river.PageHinkley(threshold=level), []
        for x in rows[:, life]:
            single.update(float(x))
            theirs.append(single.drift_detected)
        first = theirs.index(True) if any(theirs) else None
        assert (int(ours[:, life].argmax()) if ours[:, life].any() else None) == first


def test_the_kolmogorov_smirnov_distance_is_scipys() -> None:
    random = np.random.default_rng(1)
    one, other = random.standard_normal((30, 20)), random.standard_t(3, (30, 20))
    expected = [stats.ks_2samp(a, b).statistic for a, b in zip(one.T, other.T, strict=True)]
    np.testing.assert_allclose(ks_distance(one, other), expected)


def test_psi_of_windows_without_drift_has_its_textbook_mean() -> None:
    random = np.random.default_rng(2)
    detector = PsiLives(known_reference("gaussian", 300), random)
    values = np.stack([detector.update(random.standard_normal(300)) for _ in range(800)])
    assert values[values > 0].mean() == pytest.approx(9 / 200, rel=0.1)  # (bins - 1) / n


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_a_world_has_mean_0_variance_1_and_the_autocorrelation_it_says(distribution: str, phi: float) -> None:
    source = latent_lives(2000, phi, np.random.default_rng(3))
    z = np.stack([next(source) for _ in range(60)])
    x = live(distribution, z)
    assert x.mean() == pytest.approx(0, abs=0.06)
    assert x.std() == pytest.approx(1, abs=0.06)
    assert np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1] == pytest.approx(phi, abs=0.02)


def test_two_peaks_keep_mean_and_variance() -> None:
    z = np.random.default_rng(4).standard_normal(200_000)
    x = CHANGES["two peaks"](z, z, 0, z)
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(x) < 0.2).mean() < 0.6 * (np.abs(z) < 0.2).mean()


def test_ours_keeps_the_run_length_that_it_ships_with_in_every_distribution() -> None:
    for number, distribution in enumerate(DISTRIBUTIONS):
        maxima = healthy_maxima(
            World(distribution=distribution, phi=0.0),
            lambda reference, rng: OurDetectors(reference, run_length=1000.0, rng=rng),
            lives=400,
            lengths=(1000,),
            rng=np.random.default_rng(number),
        )
        mean, low, high = run_length_of(maxima, 1.0)
        assert low < mean < high
        assert 700 < mean < 2000  # looking seldom makes it a third longer than wanted
        assert level_for(maxima, mean) == pytest.approx(1.0, abs=0.1)
