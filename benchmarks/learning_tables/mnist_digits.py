"""MNIST as a hundred devices with 600 digits each, dealt as in the paper that set the protocol.

IID: shuffled, then dealt. Non-IID: sorted by label, cut into 200 shards of 300, two shards a device, so most devices hold two of the
ten classes and none more than four. The seed decides who gets what.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv:1602.05629v4, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES", "DEVICES", "Digits", "Split", "deal", "load_digits"]

DEVICES: Final = 100
CLASSES: Final = 10
SHARDS_PER_DEVICE: Final = 2

Split = Literal["IID", "2-shard non-IID"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits:
    """Images (n, 784) in [0, 1], row by row, and labels 0-9 (n,), for training and for the test."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]


def load_digits(folder: Path) -> Digits:
    """All 70 000; raises FileNotFoundError where ``mnist.npz`` is missing."""
    with np.load(folder / "mnist.npz", allow_pickle=False) as data:
        x, test_x = (
            data[name].reshape(len(data[name]), -1).astype(np.float32) / 255 for name in ("X_train", "X_test")
        )
        return Digits(
            x=x,
            y=data["y_train"].astype(np.int64),
            test_x=test_x,
            test_y=data["y_test"].astype(np.int64),
        )


def deal(digits: Digits, split: Split, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which training images each device holds (100, 600)."""
    if split == "IID":
        return rng.permutation(len(digits.x)).reshape(DEVICES, -1)
    shards = np.argsort(digits.y, kind="stable").reshape(DEVICES * SHARDS_PER_DEVICE, -1)
    return shards[rng.permutation(len(shards))].reshape(DEVICES, -1).astype(np.int64)
