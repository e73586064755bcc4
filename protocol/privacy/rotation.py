"""Flatten a vector by a random rotation that every device and the server can undo: Hadamard matrix times random signs.

A rotated update has no large coordinate, so narrow words carry it without wrapping around. It hides nothing: the
signs are public. Norms are kept; the length is padded to a power of two.

    x ── pad with zeros ──► D entries ── times signs(seed) ──► Walsh-Hadamard / sqrt(D) ──► rotated

The transform of length B·M is done as ordinary matrix products: treat the vector as a (B, M) matrix, multiply by the
B x B Hadamard matrix, lay the transpose out, repeat for the next factor. After the last factor the axes stand where
they began. That is O(D·B·log D / log B) operations, all inside BLAS.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", arXiv:2102.06387v4, section 4 ("flattening"); Ailon & Chazelle, 2006, for the transform.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.privacy.errors import SumError, UpdateError
from protocol.privacy.randomness import RandomStream

__all__ = ["padded_length", "rotate", "transform", "unrotate"]

_FACTOR_BITS: Final = 5
"""Products with a 32 x 32 matrix: large enough for BLAS, small enough that a million entries take four."""
_SIGN_DOMAIN: Final = b"fedge/privacy/rotation/v1"


def padded_length(dimension: int) -> int:
    """The smallest power of two that is at least `dimension`."""
    return 1 << max(dimension - 1, 0).bit_length()


def rotate(x: NDArray[np.float64], seed: bytes) -> NDArray[np.float64]:
    """Rotate x, shape (d,), into shape (padded_length(d),), norm unchanged. `seed` is public, any length, new each round.

    Raises:
        UpdateError: x is empty or not one-dimensional.
    """
    if x.ndim != 1 or not x.size:
        raise UpdateError(f"a vector to rotate has shape (≥1,), got {x.shape}")
    padded = np.zeros(padded_length(x.size))
    padded[: x.size] = x
    padded *= _signs(padded.size, seed)
    return transform(padded)


def unrotate(rotated: NDArray[np.float64], seed: bytes, dimension: int) -> NDArray[np.float64]:
    """Undo `rotate`: shape (D,) back to shape (dimension,).

    Raises:
        SumError: D is not the padded length of `dimension`.
    """
    if rotated.shape != (padded_length(dimension),):
        raise SumError(
            f"a rotated vector of {dimension} entries has shape ({padded_length(dimension)},), got {rotated.shape}"
        )
    return (transform(rotated) * _signs(rotated.size, seed))[:dimension]


def transform(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal Walsh-Hadamard transform of x, shape (D,), D a power of two, in natural order; it is its own inverse."""
    remaining = x.size.bit_length() - 1
    y = x
    while remaining:
        bits = min(_FACTOR_BITS, remaining)
        y = (y.reshape(1 << bits, -1).T @ _hadamard(bits)).ravel()
        remaining -= bits
    return y / math.sqrt(x.size)


def _hadamard(bits: int) -> NDArray[np.float64]:
    """The 2^bits x 2^bits matrix (-1)^popcount(i & j)."""
    matrix = np.ones((1, 1))
    for _ in range(bits):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _signs(count: int, seed: bytes) -> NDArray[np.float64]:
    stream = RandomStream(hashlib.sha256(_SIGN_DOMAIN + seed).digest())
    octets = stream.words(-(-count // 64)).astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets, count=count).astype(np.float64)
    return 1.0 - 2.0 * bits
