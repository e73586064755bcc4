"""The closed-form detectors: their scores are the textbook's distances."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from recordings import ROOT

from models import reference_model
from models.errors import InputError, LayoutError
from models.moments import Moments

# The script's folder is on its own import path; a test has to put it there.
sys.path.append(str(ROOT / "benchmarks"))

from learning_tables.covariance_detector import (
    hotelling_autoencoder,
    mahalanobis_autoencoder,
    pca_autoencoder,
    weighted,
)

pytestmark = pytest.mark.edge
F = 6


def windows(n: int, seed: int = 0, shift: float = 0.5) -> np.ndarray:
    """Correlated windows with eigenvalues from about 3 down to 0.02."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(F, F)))[0]
    return rng.normal(size=(n, F)) * np.geomspace(1.7, 0.15, F) @ turn.T + shift


def scores(model: tuple, x: np.ndarray) -> np.ndarray:
    """Score times F: the sum of squares that the textbooks give."""
    architecture, flat = model
    return reference_model.infer(architecture, flat, x)[1] * F


def test_the_score_is_the_mahalanobis_distance() -> None:
    x, fresh = windows(500), windows(50, seed=1)
    inverse = np.linalg.inv(np.cov(x.T, bias=True) + 0.01 * np.eye(F))
    d = fresh - x.mean(axis=0)
    expected = np.einsum("ij,jk,ik->i", d, inverse, d)
    np.testing.assert_allclose(
        scores(mahalanobis_autoencoder(Moments.of(x), ridge=0.01), fresh), expected, rtol=1e-4
    )


@pytest.mark.parametrize("components", [1, 3, 5])
def test_the_score_of_pca_is_what_the_components_miss(components) -> None:
    x, fresh = windows(500), windows(50, seed=1)
    d = fresh - x.mean(axis=0)
    kept = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:components]
    expected = ((d - d @ kept.T @ kept) ** 2).sum(axis=1)
    model = pca_autoencoder(Moments.of(x), components=components)
    assert model[0].layers == (F, 2 * components, F)
    np.testing.assert_allclose(scores(model, fresh), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("components", [1, 3, 6])
def test_the_score_of_hotelling_is_the_distance_within_the_components(components) -> None:
    x, fresh = windows(500), windows(50, seed=1)
    centred = x - x.mean(axis=0)
    _, singular, kept = np.linalg.svd(centred, full_matrices=False)
    t = (fresh - x.mean(axis=0)) @ kept[:components].T
    expected = (t**2 / (singular[:components] ** 2 / len(x))).sum(axis=1)
    np.testing.assert_allclose(
        scores(hotelling_autoencoder(Moments.of(x), components=components), fresh), expected, rtol=1e-4
    )


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    x = windows(90)
    parts = Moments.zero(F) + Moments.of(x[:20]) + Moments.of(x[20:])
    whole = Moments.of(x)
    assert parts.n == whole.n == 90
    np.testing.assert_allclose(parts.mean, x.mean(axis=0))
    np.testing.assert_allclose(parts.covariance, np.cov(x.T, bias=True), atol=1e-12)


def test_centred_moments_hold_what_varies_within_devices_and_not_between() -> None:
    one, other = windows(300, shift=3.0), windows(300, seed=1, shift=-3.0)
    within = Moments.of(one).centred() + Moments.of(other).centred()
    expected = (np.cov(one.T, bias=True) + np.cov(other.T, bias=True)) / 2
    np.testing.assert_allclose(within.covariance, expected, atol=1e-9)
    np.testing.assert_array_equal(within.mean, np.zeros(F))
    assert np.trace((Moments.of(one) + Moments.of(other)).covariance) > 5 * np.trace(expected)


def test_weights_give_each_device_the_same_say() -> None:
    long, short = Moments.of(windows(1000)).centred(), Moments.of(windows(10, seed=1)).centred()
    equal = weighted(long, 1 / long.n) + weighted(short, 1 / short.n)
    np.testing.assert_allclose(equal.covariance, (long.covariance + short.covariance) / 2)


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_two_equal_sensors_do_not_break_the_distance(ridge) -> None:
    x = windows(500)
    x[:, 1] = x[:, 0]
    architecture, flat = mahalanobis_autoencoder(Moments.of(x), ridge=ridge)
    assert np.abs(flat).max() < 1e4
    score = reference_model.infer(architecture, flat, x)[1]
    assert np.isfinite(score).all()
    assert 0.5 < score.mean() < 1


def test_the_same_sums_give_the_same_bytes_whatever_sign_an_eigenvector_came_with(monkeypatch) -> None:
    moments = Moments.of(windows(500))
    expected = mahalanobis_autoencoder(moments, ridge=0.01)[1]
    values, vectors = np.linalg.eigh(moments.covariance)
    monkeypatch.setattr(np.linalg, "eigh", lambda _: (values, vectors * [1, -1, 1, -1, -1, 1]))
    np.testing.assert_array_equal(mahalanobis_autoencoder(moments, ridge=0.01)[1], expected)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda m: mahalanobis_autoencoder(m, ridge=-1.0), "at least 0, got -1.0"),
        (lambda m: mahalanobis_autoencoder(m, ridge=float("nan")), "at least 0, got nan"),
        (lambda m: pca_autoencoder(m, components=0), "0 components: expected between 1 and 5"),
        (lambda m: pca_autoencoder(m, components=F), "6 components: expected between 1 and 5"),
        (lambda m: hotelling_autoencoder(m, components=7), "7 components: expected between 1 and 6"),
        (lambda m: pca_autoencoder(Moments.zero(F), components=2), "no window"),
        (lambda m: Moments.of(np.zeros(F)), r"shape \(≥1, F\), got \(6,\)"),
        (lambda m: Moments.of(np.full((3, F), np.nan)), "finite"),
    ],
)
def test_what_no_detector_can_be_made_of_is_refused(wrong, says) -> None:
    with pytest.raises(InputError, match=says):
        wrong(Moments.of(windows(50)))


def test_moments_of_other_features_do_not_add_up() -> None:
    with pytest.raises(LayoutError, match="got 6 and 2"):
        Moments.of(windows(50)) + Moments.zero(2)
    with pytest.raises(LayoutError, match=r"\(F, F\)"):
        Moments(n=1.0, sum=np.zeros(3), outer=np.zeros((3, 2)))
