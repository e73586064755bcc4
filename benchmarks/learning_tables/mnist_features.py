"""Oriented gradients of a digit: what a private model learns from instead of pixels. Fixed, so they cost no privacy.

    28 x 28 ─► gradient at each pixel ─► its length, shared between the two nearest of 8 directions
            ─► summed under a tent over 7 x 7 cells of 4 pixels ─► divided by the energy of the 3 x 3 cells around ─► 392 values

Noise is added to every parameter, so few parameters on good features beat many on pixels: a linear classifier on these has 3 930
beside the 2NN's 199 210.

Sources: Dalal, Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005; Tramèr, Boneh, "Differentially Private
Learning Needs Better Features (or Much More Data)", arXiv:2011.11660v3, for the idea of features that need no data.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES", "oriented_gradients"]

DIRECTIONS: Final = 8
CELL: Final = 4
CELLS: Final = 7
FEATURES: Final = DIRECTIONS * CELLS * CELLS
ENERGY_FLOOR: Final = 0.5
"""Added to a neighbourhood's energy: empty corners stay near zero instead of being blown up."""

_PIECE: Final = 2000
"""Images at a time, for the sake of memory."""


def oriented_gradients(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (n, 784) in [0, 1] → features (n, 392), each at most about 1; their norm is about 1.7."""
    return np.concatenate([_of_piece(images[at : at + _PIECE]) for at in range(0, len(images), _PIECE)])


def _of_piece(images: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = images.reshape(-1, 28, 28)
    across, down = np.zeros_like(picture), np.zeros_like(picture)
    across[:, :, 1:-1] = picture[:, :, 2:] - picture[:, :, :-2]
    down[:, 1:-1] = picture[:, 2:] - picture[:, :-2]
    length = np.hypot(across, down)
    direction = np.arctan2(down, across) / (2 * np.pi) * DIRECTIONS
    tent = _tent()
    cells = np.empty((len(picture), DIRECTIONS, CELLS, CELLS), np.float32)
    for number in range(DIRECTIONS):
        distance = np.abs((direction - number + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2)
        cells[:, number] = tent @ (length * np.maximum(1 - distance, 0)) @ tent.T
    energy = np.pad((cells**2).sum(axis=1), ((0, 0), (1, 1), (1, 1)))
    around = sum(energy[:, i : i + CELLS, j : j + CELLS] for i in range(3) for j in range(3))
    normalised = cells / np.sqrt(np.asarray(around) + ENERGY_FLOOR)[:, np.newaxis]
    return np.asarray(normalised.reshape(len(picture), -1), np.float32)


def _tent() -> NDArray[np.float32]:
    """Weights (7, 28) of each pixel row in each cell row: 1 at the cell's middle, 0 at the middles of its neighbours."""
    middles = CELL * np.arange(CELLS) + (CELL - 1) / 2
    distance = np.abs(np.arange(28) - middles[:, np.newaxis]) / CELL
    return np.maximum(1 - distance, 0).astype(np.float32)
