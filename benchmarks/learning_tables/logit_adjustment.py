"""Training a classifier on a device that sees few of the classes: its own label shares enter the loss as an offset of the logits.

Without it, a device with two classes of ten learns above all that the other eight do not exist, and a cohort of such devices pulls
the output layer to wherever its labels happen to lie. With it, what the shares alone explain costs nothing, so the gradient
speaks of what tells the classes apart.

    loss = cross-entropy(softmax(logits + τ · (log own share - mean log own share)), labels)

The offset is constant, and every classifier here ends with the biases of its logits. So no graph changes: the offset is added to
the output biases before training and taken away after it, which is the same training, step by step, for any optimizer, clip
or proximal term (its anchor is the shifted start). Only the published model is without it. Not a correction of answers: that is
`models.label_prior`. Shares never leave the device.

Sources: Menon et al., "Long-tail learning via logit adjustment", arXiv:2007.07314v2, Eq. (10); Zhang et al., "Federated Learning
with Label Distribution Skew via Logits Calibration", arXiv:2209.00189v1, for devices that hold few classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError, LayoutError

__all__ = ["class_offsets", "shift_output"]


def class_offsets(
    labels: NDArray[np.floating], *, strength: float, smoothing: float = 1.0
) -> NDArray[np.float32]:
    """What the loss adds to each logit on a device with these labels (classes,); mean 0, and 0 where all classes are equally many.

    Args:
        labels: one-hot (n, classes), n ≥ 1.
        strength: τ ≥ 0; 0 switches the adjustment off, 1 is the exact posterior under own shares.
        smoothing: examples added to each class, > 0, so that a class never seen keeps a finite logit.

    Raises:
        InputError: no labels, another rank, or a strength or smoothing out of range.

    >>> class_offsets(np.array([[1, 0], [1, 0], [1, 0]]), strength=1.0).round(2)
    array([ 0.69, -0.69], dtype=float32)
    """
    if labels.ndim != 2 or not len(labels):
        raise InputError(f"labels are one-hot of shape (≥1, classes), got {labels.shape}")
    if not (strength >= 0 and smoothing > 0):
        raise InputError(f"strength is at least 0 and smoothing above 0, got {strength} and {smoothing}")
    logarithms = np.log(labels.sum(axis=0, dtype=np.float64) + smoothing)
    return np.asarray(strength * (logarithms - logarithms.mean()), np.float32)


def shift_output(flat: NDArray[np.floating], offsets: NDArray[np.floating]) -> NDArray[np.float32]:
    """A classifier's flat vector (P,) with `offsets` (classes,) added to the biases of its logits, which are its last values.

    Raises:
        LayoutError: fewer parameters than classes, or arrays of another rank.

    >>> shift_output(np.zeros(4), np.array([0.5, -0.5]))
    array([ 0. ,  0. ,  0.5, -0.5], dtype=float32)
    """
    if flat.ndim != 1 or offsets.ndim != 1 or not 0 < len(offsets) <= len(flat):
        raise LayoutError(
            f"a flat vector (P,) ends with one bias for each of at most P classes, got {flat.shape} and {offsets.shape}"
        )
    shifted = np.array(flat, np.float32)
    shifted[-len(offsets) :] += offsets
    return shifted
