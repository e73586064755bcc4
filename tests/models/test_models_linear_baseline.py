"""Linear detectors inside a network's own layout, held against NumPy's formulas for what they claim to be."""

from __future__ import annotations

import numpy as np
import pytest
import reference_training
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import reference_model
from models.architecture import Architecture, split_parameters
from models.errors import InputError, LayoutError
from models.linear_baseline import (
    LIFT,
    SMALLEST_EIGENVALUE,
    fits_a_linear_detector,
    mahalanobis_parameters,
    principal_component_parameters,
)
from models.moments import Moments

pytestmark = pytest.mark.edge


def autoencoder(*layers: int) -> Architecture:
    return Architecture(kind="dense-autoencoder", layers=layers)


def healthy(features: int, windows: int = 400, seed: int = 0) -> NDArray[np.float64]:
    """Two hidden causes, noise, and a mean that is not zero."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(windows, 2)) @ rng.normal(size=(2, features)) / 2
    return causes + 0.4 * rng.normal(size=(windows, features)) + 0.2


def scores(
    architecture: Architecture, flat: NDArray[np.float32], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    return reference_model.infer(architecture, flat, x)[1]


@pytest.mark.parametrize("layers", [(6, 4, 6), (24, 16, 8, 16, 24), (5, 9, 5), (3, 3, 1, 3)])
def test_the_principal_components_miss_what_svd_says_they_miss(layers: tuple[int, ...]) -> None:
    architecture, x = autoencoder(*layers), healthy(layers[0])
    flat = principal_component_parameters(architecture, Moments.of(x))
    rank = min(*layers[1:-1], layers[0] - 1)
    centred = x - x.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:rank]
    missed = centred - centred @ directions.T @ directions
    np.testing.assert_allclose(scores(architecture, flat, x), np.mean(missed**2, axis=1), atol=1e-5)


@given(features=st.integers(2, 12), extra=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_without_a_bottleneck_the_score_is_the_mahalanobis_distance(
    features: int, extra: int, seed: int
) -> None:
    architecture, x = autoencoder(features, features + extra, features), healthy(features, seed=seed)
    flat = mahalanobis_parameters(architecture, Moments.of(x))
    centred, covariance = x - x.mean(axis=0), np.cov(x.T, bias=True)
    distance = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(covariance), centred)
    smallest = max(np.linalg.eigvalsh(covariance)[0], SMALLEST_EIGENVALUE)
    np.testing.assert_allclose(
        scores(architecture, flat, x), distance * smallest / features, rtol=2e-3, atol=1e-5
    )


def test_with_a_bottleneck_it_is_the_distance_under_probabilistic_pca() -> None:
    architecture, x = autoencoder(8, 5, 3, 5, 8), healthy(8)
    covariance = np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    noise = values[:-3].mean()
    # Tipping and Bishop's model covariance: W Wᵀ + σ² I with the three largest eigenvalues kept.
    model = (vectors[:, -3:] * (values[-3:] - noise)) @ vectors[:, -3:].T + noise * np.eye(8)
    centred = x - x.mean(axis=0)
    distance = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(model), centred)
    got = scores(architecture, mahalanobis_parameters(architecture, Moments.of(x)), x)
    np.testing.assert_allclose(got, noise * distance / 8, rtol=1e-3)


@pytest.mark.parametrize("fit", [mahalanobis_parameters, principal_component_parameters])
def test_moments_that_were_added_up_give_the_detector_of_all_windows(fit: object) -> None:
    architecture, x = autoencoder(6, 4, 6), healthy(6)
    parts = Moments.of(x[:100]) + Moments.of(x[100:])
    np.testing.assert_allclose(fit(architecture, parts), fit(architecture, Moments.of(x)), atol=1e-5)  # type: ignore[operator]  # both are functions of the same two arguments


def test_what_lies_beyond_the_lift_scores_higher_than_the_formula_and_never_lower() -> None:
    architecture, x = autoencoder(6, 4, 6), healthy(6)
    moments = Moments.of(x)
    flat = mahalanobis_parameters(architecture, moments)
    values, vectors = np.linalg.eigh(moments.covariance)
    far = (
        x.mean(axis=0) + np.outer(np.array([-2.0, -1.0, 1.0, 2.0]) * LIFT, vectors[:, -1]) * values[-1] ** 0.5
    )
    linear = scores(architecture, flat, x.mean(axis=0) + (far - x.mean(axis=0)) / 4) * 16
    got = scores(architecture, flat, far)
    assert (got >= linear * 0.999).all()
    assert max(got[0], got[3]) > 1.5 * min(got[0], got[3])


def test_training_may_go_on_from_a_baseline_in_every_layer() -> None:
    architecture, x = autoencoder(6, 9, 4, 9, 6), healthy(6)
    flat = principal_component_parameters(architecture, Moments.of(x))
    before, gradient = reference_training.loss_and_gradient(architecture, flat, x)
    # The spare units of both wide layers get gradients: through weights out of them first, then through those into them.
    out_of_spare = split_parameters(architecture, gradient)[6][4:]
    assert (np.abs(out_of_spare).sum(axis=1) > 0).sum() >= 3
    parameters = flat.astype(np.float64)
    for _ in range(500):
        parameters -= 0.005 * reference_training.loss_and_gradient(architecture, parameters, x)[1]
    assert reference_training.loss_and_gradient(architecture, parameters, x)[0] < before


def test_the_same_sums_give_the_same_bytes() -> None:
    architecture, moments = autoencoder(6, 4, 6), Moments.of(healthy(6))
    first = mahalanobis_parameters(architecture, moments)
    assert first.tobytes() == mahalanobis_parameters(architecture, moments).tobytes()


def test_a_sensor_that_stands_still_and_two_that_are_equal_give_finite_detectors() -> None:
    x = healthy(6)
    x[:, 0], x[:, 2] = 0.0, x[:, 1]
    for fit in (mahalanobis_parameters, principal_component_parameters):
        assert np.isfinite(fit(autoencoder(6, 4, 6), Moments.of(x))).all()


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(kind="dense-classifier", layers=(6, 4, 2)),
        autoencoder(6, 6),
        autoencoder(1, 1),
    ],
)
def test_layouts_that_hold_no_linear_detector_are_told_apart(architecture: Architecture) -> None:
    assert not fits_a_linear_detector(architecture)
    with pytest.raises(LayoutError, match="holds no linear detector"):
        mahalanobis_parameters(architecture, Moments.of(healthy(architecture.feature_count)))


def test_moments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LayoutError, match="5 features do not fit a model of 6"):
        mahalanobis_parameters(autoencoder(6, 4, 6), Moments.of(healthy(5)))
    with pytest.raises(InputError, match="at least 2 windows"):
        mahalanobis_parameters(autoencoder(6, 4, 6), Moments.of(healthy(6)[:1]))


def test_of_a_single_feature_every_detector_is_the_squared_distance_from_its_mean() -> None:
    x = np.random.default_rng(0).normal(3.0, 0.7, size=(500, 1))
    architecture = autoencoder(1, 4, 1)
    for parameters in (
        mahalanobis_parameters(architecture, Moments.of(x)),
        mahalanobis_parameters(architecture, Moments.of(x), ridge=3.0),
        principal_component_parameters(architecture, Moments.of(x)),
    ):
        score = reference_model.infer(architecture, parameters, x)[1]
        np.testing.assert_allclose(np.sqrt(score), np.abs(x[:, 0] - x.mean()), atol=5e-3)
