"""Statistics of what a server sees: what is uniform bytes, what follows a recurrence, what resembles a secret.

Pure functions of words; where the words come from (a rehearsal, a recorded run) is the tests' business.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def chi_squared_of_bytes(words: NDArray[np.uint32]) -> float:
    """How far the bytes are from uniform, in standard deviations of χ² with 255 degrees of freedom."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = words.nbytes / 256
    return float((((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255))


def linear_complexity(bits: Iterable[int]) -> int:
    """Length of the shortest linear recurrence over GF(2) that gives the bits (Berlekamp and Massey), polynomials as integers."""
    connection, previous, length, since, history = 1, 1, 0, 1, 0
    for at, bit in enumerate(bits):
        history = history << 1 | bit
        if (connection & history).bit_count() & 1:
            connection, kept = connection ^ previous << since, connection
            if 2 * length <= at:
                length, previous, since = at + 1 - length, kept, 0
        since += 1
    return length


def correlation(masked: NDArray[np.uint32], plain: NDArray[np.uint32]) -> float:
    return float(abs(np.corrcoef(masked.astype(np.int32), plain.astype(np.int32))[0, 1]))


def invert_dense_layer(words: NDArray[np.uint32], inputs: int, outputs: int) -> NDArray[np.float64]:
    """The sample behind the gradient of a dense layer: each row of the weights' gradient is the sample times the bias' gradient."""
    gradient = words[: outputs * (inputs + 1)].astype(np.int32).astype(np.float64)
    weights, biases = gradient[: outputs * inputs].reshape(outputs, inputs), gradient[outputs * inputs :]
    strongest = int(np.argmax(np.abs(biases)))
    return weights[strongest] / biases[strongest]


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)))
