"""Linear detectors written into the parameters of a dense autoencoder of any widths: the baseline beside a network.

From the moments of healthy windows follow two detectors in closed form; each is given as a flat vector of the network's OWN layout,
so a device needs nothing new to score, quantise, install or train on from it. Not a training, and not a layout of its own.

With eigenpairs (λ_i, u_i) of the covariance, largest first, mean m, k = the narrowest hidden width (at most F - 1):

    reconstruction = m + Σ_{i≤k} w_i u_i u_iᵀ (x - m)
    principal components   w_i = 1                 error = what k components miss (Q), Jackson and Mudholkar 1979
    Mahalanobis            w_i = 1 - σ/√λ_i        error = σ² · (Σ_{i≤k} t_i²/λ_i + Σ_{i>k} t_i²/σ²),  t = uᵀ(x - m)

with σ² the mean of the λ that are left out: the second is σ² times the squared Mahalanobis distance under probabilistic PCA, and
for k = F - 1 under the covariance itself. T² and Q in one figure, at the rank that the bottleneck allows. One feature leaves k = 0: its
distance from the mean.

A ReLU carries a value that stays positive unchanged. So each component travels as u_iᵀ(x - m)/√λ_i + `LIFT` through the
hidden layers, and the last layer takes the lift away again. Below -LIFT deviations it is cut off; such a window is reconstructed worse, never
better. Units that no component needs get small random weights in and none out: they change nothing, and training may use them.
The lift makes steep slopes: gradient descent from here needs a tenth of the learning rate that a network takes, or diverges.

Sources: Jackson, Mudholkar, "Control procedures for residuals associated with principal component analysis", Technometrics 21(3), 1979;
Tipping, Bishop, "Probabilistic principal component analysis", J. Royal Statistical Society B 61(3), 1999, Eqs. (7), (8).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, initial_parameters, join_parameters, split_parameters
from models.errors import InputError, LayoutError
from models.moments import Moments

__all__ = ["LIFT", "fits_a_linear_detector", "mahalanobis_parameters", "principal_component_parameters"]

Floats = NDArray[np.float64]

LIFT: Final = 6.0
"""Healthy deviations kept below zero by a ReLU: more costs int8 resolution, less cuts off what is healthy."""

SMALLEST_EIGENVALUE: Final = 1e-2
"""Squared healthy deviations. int8 inputs come in steps of 1/16; a direction that varies less than that must not decide."""


NEXT_TO_NOTHING: Final = 1e-4
"""A weight that moves an output by a thousandth of a deviation at most."""


def fits_a_linear_detector(architecture: Architecture) -> bool:
    """Whether this layout can hold one: dense, an autoencoder, with a hidden layer."""
    return architecture.kind == "dense-autoencoder" and len(architecture.layers) > 2


def principal_component_parameters(architecture: Architecture, moments: Moments) -> NDArray[np.float32]:
    """Flat parameters (P,) whose score is what the principal components miss of a window, over F.

    Args:
        architecture: for which `fits_a_linear_detector`.
        moments: of healthy standardised windows.

    Raises:
        LayoutError: an architecture that holds no linear detector, or moments of another number of features.
        InputError: too few windows for a covariance.
    """
    eigenvalues, vectors = _spectrum(architecture, moments)
    return _embed(architecture, moments, eigenvalues, vectors, np.ones(_rank(architecture)))


def mahalanobis_parameters(
    architecture: Architecture, moments: Moments, *, ridge: float = 0.0
) -> NDArray[np.float32]:
    """Flat parameters (P,) whose score is the squared Mahalanobis distance under probabilistic PCA, times (σ² + ridge)/F.

    `ridge` ≥ 0, in squared healthy deviations, is added to the model's eigenvalues and draws the distance towards the plain mean
    square: quiet directions, which wander first while nothing is wrong, then decide less. Raises as `principal_component_parameters`,
    InputError for a negative ridge too.
    """
    if not ridge >= 0:
        raise InputError(f"a ridge is at least 0, got {ridge}")
    eigenvalues, vectors = _spectrum(architecture, moments)
    rank = _rank(architecture)
    # Eq. (8) of Tipping and Bishop: σ² is the mean of the eigenvalues that are left out.
    noise = eigenvalues[rank:].mean() + ridge
    return _embed(
        architecture, moments, eigenvalues, vectors, 1.0 - np.sqrt(noise / (eigenvalues[:rank] + ridge))
    )


def _rank(architecture: Architecture) -> int:
    return min(*architecture.layers[1:-1], architecture.feature_count - 1)


def _spectrum(architecture: Architecture, moments: Moments) -> tuple[Floats, Floats]:
    """Eigenvalues (F,), largest first, and eigenvectors (F, F) in columns, signs fixed: the same sums, the same bytes."""
    if not fits_a_linear_detector(architecture):
        raise LayoutError(
            f"{architecture.kind} {architecture.layers} holds no linear detector; a dense autoencoder with a hidden layer does"
        )
    if len(moments.sum) != architecture.feature_count:
        raise LayoutError(
            f"moments of {len(moments.sum)} features do not fit a model of {architecture.feature_count}"
        )
    if moments.n < 2:
        raise InputError(f"a covariance needs at least 2 windows, the moments count {moments.n:g}")
    values, vectors = np.linalg.eigh(moments.covariance)
    values, vectors = np.maximum(values[::-1], SMALLEST_EIGENVALUE), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(len(values))])


def _embed(
    architecture: Architecture, moments: Moments, eigenvalues: Floats, vectors: Floats, weights: Floats
) -> NDArray[np.float32]:
    rank, mean = len(weights), moments.mean
    # Scaled to one healthy deviation each: the units share int8's step, so none may be much wider than another.
    scale = np.sqrt(eigenvalues[:rank])
    inward = vectors[:, :rank] / scale
    outward = (vectors[:, :rank] * (weights * scale)).T
    # What units start from that no component needs: a zero weight would never get a gradient.
    spare = split_parameters(architecture, initial_parameters(architecture, 0))
    arrays = [np.array(part, np.float64) for part in spare]
    last = len(arrays) - 2
    for layer in range(0, len(arrays), 2):
        kernel, bias = arrays[layer], arrays[layer + 1]
        if layer == last:
            kernel[:], bias[:] = 0.0, mean - LIFT * outward.sum(axis=0)
            kernel[:rank] = outward
            if not rank:
                # int8 counts a bias in steps of the weights beside it; beside none but zeros it would be lost.
                kernel[:] = NEXT_TO_NOTHING
        elif layer == 0:
            kernel[:, :rank], bias[:rank] = inward, LIFT - mean @ inward
        else:
            kernel[:, :rank] = 0.0
            kernel[:rank, :rank] = np.eye(rank)
    return join_parameters(architecture, [np.asarray(array) for array in arrays])
