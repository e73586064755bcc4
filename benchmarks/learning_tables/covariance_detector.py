"""Detectors that need no training, only sums: Mahalanobis distance and principal components as a dense autoencoder.

Devices add up counts, sums and outer products of their standardised windows; the eigenvectors of that covariance give
a detector in closed form. It is written as an `Architecture` with layers (F, 2k, F), so the int8 graph, the bundle, the
golden vectors and the alarm path are those of every other autoencoder. It is not a trained network and holds no threshold. The
product's detectors are written into a network's own layout (`models.linear_baseline`); these are the tables' yardstick.

A ReLU layer is linear where it carries a value and its negative. With t = Uᵀ(x - m), the eigenvalues λ of the covariance
and a gain g(λ) for what a direction adds to the error:

    hidden = relu([a·t, -a·t])        output = m + U ((1 - g)/a · (hidden₊ - hidden₋))        x - output = U g t

so the mean squared error, the family's score, is Σ g² t² / F: with g = 1/√(λ + ridge) the squared Mahalanobis distance
over F, with g = [component is dropped] the reconstruction error of PCA (Q), with g = [kept]/√λ Hotelling's T². The scale
a decides what int8 sees, nothing else: `_hidden_scale` says why it is what it is.

Sources: Jackson, Mudholkar, "Control procedures for residuals associated with principal
component analysis", Technometrics 21(3), 1979; Ledoit, Wolf, "A well-conditioned estimator for large-dimensional
covariance matrices", J. Multivariate Analysis 88(2), 2004, for shrinking one covariance towards another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture, join_parameters
from models.errors import InputError
from models.moments import Moments

__all__ = ["hotelling_autoencoder", "mahalanobis_autoencoder", "pca_autoencoder", "weighted"]

Floats = NDArray[np.float64]

_SMALLEST_EIGENVALUE = 1e-6
"""A direction that never moved (two equal sensors) has none; standardised features have eigenvalues around 1."""


def weighted(moments: Moments, weight: float) -> Moments:
    """Every window counted `weight` times: 1/n gives each device the same say, however long it ran."""
    return Moments(n=moments.n * weight, sum=moments.sum * weight, outer=moments.outer * weight)


def mahalanobis_autoencoder(moments: Moments, *, ridge: float) -> tuple[Architecture, NDArray[np.float32]]:
    """The autoencoder (F, 2F, F) whose score is the squared Mahalanobis distance over F, about 1 for healthy windows.

    Args:
        moments: of healthy standardised windows.
        ridge: added to each eigenvalue, in squared standardised units, ≥ 0. It says how little a direction must vary
            before its wobble stops counting; int8 steps of 1/16 ask for 0.01 at least.

    Raises:
        InputError: no window, or a negative ridge.
    """
    if not ridge >= 0:
        raise InputError(f"a ridge is at least 0, got {ridge}")
    eigenvalues, vectors = _spectrum(moments)
    return _autoencoder(moments.mean, eigenvalues, vectors, 1.0 / np.sqrt(eigenvalues + ridge))


def pca_autoencoder(moments: Moments, *, components: int) -> tuple[Architecture, NDArray[np.float32]]:
    """The autoencoder (F, 2k, F) that gives back the first k principal components; its score is what they miss (Q).

    Args:
        moments: of healthy standardised windows.
        components: k, 1 … F - 1.

    Raises:
        InputError: no window, or k out of range.
    """
    eigenvalues, vectors = _spectrum(moments)
    _require_components(components, len(eigenvalues) - 1)
    kept = slice(0, components)
    return _autoencoder(moments.mean, eigenvalues[kept], vectors[:, kept], np.zeros(components))


def hotelling_autoencoder(moments: Moments, *, components: int) -> tuple[Architecture, NDArray[np.float32]]:
    """The autoencoder (F, 2F, F) whose score is Hotelling's T² in the first k components, over F.

    Args:
        moments: of healthy standardised windows.
        components: k, 1 … F.

    Raises:
        InputError: no window, or k out of range.
    """
    eigenvalues, vectors = _spectrum(moments)
    _require_components(components, len(eigenvalues))
    gain = np.where(np.arange(len(eigenvalues)) < components, 1.0 / np.sqrt(eigenvalues), 0.0)
    return _autoencoder(moments.mean, eigenvalues, vectors, gain)


def _spectrum(moments: Moments) -> tuple[Floats, Floats]:
    """Eigenvalues (F,), largest first, and eigenvectors (F, F) in columns, signs fixed: the same sums, the same bytes."""
    eigenvalues, vectors = np.linalg.eigh(moments.covariance)
    eigenvalues, vectors = np.maximum(eigenvalues[::-1], _SMALLEST_EIGENVALUE), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return eigenvalues, vectors * np.sign(vectors[largest, np.arange(len(eigenvalues))])


def _autoencoder(
    mean: Floats, eigenvalues: Floats, vectors: Floats, gain: Floats
) -> tuple[Architecture, NDArray[np.float32]]:
    """Layers (F, 2k, F) with x - output = U g t in the k given directions, and x - m in all others."""
    features, kept = vectors.shape
    scale = _hidden_scale(eigenvalues)
    forward = vectors * scale
    backward = (vectors * ((1.0 - gain) / scale)).T
    shift = mean @ forward
    architecture = Architecture(kind="dense-autoencoder", layers=(features, 2 * kept, features))
    flat = join_parameters(
        architecture,
        [np.hstack([forward, -forward]), np.hstack([-shift, shift]), np.vstack([backward, -backward]), mean],
    )
    return architecture, flat


def _hidden_scale(eigenvalues: Floats) -> Floats:
    """The scale a of each hidden unit: λ^(-1/4), halfway between none and whitening.

    int8 has one step for all hidden units and one for all weights of a layer. Unscaled units leave those of small
    eigenvalues less than a step wide; whitened ones need weights of 1/√λ, beside which the others round to nothing.
    """
    return np.asarray((eigenvalues + 1e-2) ** -0.25)


def _require_components(components: int, most: int) -> None:
    if not 1 <= components <= most:
        raise InputError(f"{components} components: expected between 1 and {most}")
