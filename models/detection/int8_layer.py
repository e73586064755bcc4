"""One dense int8 layer: the mean square of its first outputs is the score, the largest square of the others the furthest sensor.

    M = V·diag(λ)·V′      y = diag(√λ)·V′·z      score = |y|² / F
    residuals R           w = R·z                furthest = max w²

Inputs are int8 in steps of 8/127 (standardised values end at ±8), weights int8 with one step an output, sums int32: the
arithmetic of an int8 fully connected operator with per-channel weights. It runs in NumPy, where integer values in float32 lose nothing
(127 · 127 · F < 2²⁴ up to F = 1,040), so that a device can make its own without a converter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError
from models.standardiser import CLIP

__all__ = ["STEP", "Int8Layer"]

Float = NDArray[np.float32]

_STEPS: Final = 127
STEP: Final = CLIP / _STEPS
"""What a standardised value is resolved to."""
_MOST_FEATURES: Final = 1040


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Layer:
    """`weights` (2F, F) with integer values in ±127, and what one step of each output's sum is worth (2F,)."""

    weights: Float
    output_steps: Float

    @classmethod
    def of(cls, matrix: NDArray[np.floating], residuals: NDArray[np.floating]) -> Int8Layer:
        """The root of a symmetric `matrix` (F, F) without negative eigenvalues, and `residuals` (F, F); raises InputError for F > 1,040."""
        if len(matrix) > _MOST_FEATURES:
            raise InputError(
                f"an int8 layer sums up at most {_MOST_FEATURES} features exactly, got {len(matrix)}"
            )
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        rows = np.concatenate([np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T, residuals])
        steps = np.maximum(np.abs(rows).max(axis=1), 1e-12) / _STEPS
        return cls(
            weights=np.rint(rows / steps[:, None]).astype(np.float32),
            output_steps=(steps * STEP).astype(np.float32),
        )

    def score(self, z: Float) -> tuple[float, float]:
        """Score and furthest sensor's square of one window z (F,), within ±8."""
        features = len(z)
        outputs = self.weights @ np.rint(z * np.float32(1 / STEP))
        outputs *= self.output_steps
        root, off = outputs[:features], outputs[features:]
        # The largest is found three times as soon as the largest square.
        return float(root.dot(root)) / features, max(float(off.max()), -float(off.min())) ** 2

    def scores(self, z: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and furthest squares (n,) of windows z (n, F), within ±8: what `score` gives for each, to float32's rounding."""
        features = z.shape[1]
        outputs = np.rint(np.asarray(z, np.float32) * np.float32(1 / STEP)) @ self.weights.T
        outputs *= self.output_steps
        squares = np.square(outputs.astype(np.float64))
        return squares[:, :features].sum(axis=1) / features, squares[:, features:].max(axis=1)
