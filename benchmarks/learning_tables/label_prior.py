"""A device's own label prior in front of the fleet's classifier: the answer shifts, the model stays.

Hospitals, lines or machines often agree on what a case looks like and differ in how often it occurs. A classifier that was
trained on all of them carries the fleet's share of each class; a device that knows its own shares adds their log ratio to the
logits. It needs no training, no second model and no float parameters: the int8 model's logits are dequantised anyway.

    p_i(y|x) ∝ p(y|x) · own share(y) / fleet share(y)        logits_i = logits + log own share - log fleet share

It corrects shares only; where the same features mean something else on a device, that device must train.

Source: Saerens, Latinne, Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities: a simple
procedure", Neural Computation 14(1), 2002, Eq. (2.4).
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.errors import InputError, LayoutError

__all__ = ["LabelPrior", "fit_label_prior"]


class LabelPrior(Struct, frozen=True, kw_only=True):
    """What is added to each class' logit, and the number of own labels behind it."""

    shift: tuple[float, ...]
    fitted_on: int

    def apply(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (classes,) or (n, classes) under this device's shares; raises LayoutError for other classes."""
        if logits.shape[-1:] != (len(self.shift),):
            raise LayoutError(f"this label prior shifts {len(self.shift)} logits, got shape {logits.shape}")
        return np.asarray(logits + np.asarray(self.shift, np.float32), np.float32)


def fit_label_prior(
    own_counts: NDArray[np.floating], fleet_counts: NDArray[np.floating], *, strength: float = 2.0
) -> LabelPrior:
    """The shift for a device's own labels; without any it is zero.

    Args:
        own_counts: this device's training labels per class (classes,).
        fleet_counts: the same summed over the cohort that trained the model (classes,): a sum, so the cloud may know it.
        strength: how many labels the fleet's shares count for, > 0. It keeps a class that this device has never seen possible,
            and the shift of a device with few labels small.

    Raises:
        InputError: counts of different classes, negative or not finite, a class that nobody has seen, or strength ≤ 0.

    >>> prior = fit_label_prior(np.array([8, 0]), np.array([50, 50]))
    >>> prior.apply(np.array([0.0, 0.0])).round(2)
    array([ 0.59, -1.61], dtype=float32)
    """
    own, fleet = np.asarray(own_counts, np.float64), np.asarray(fleet_counts, np.float64)
    if own.ndim != 1 or own.shape != fleet.shape:
        raise InputError(
            f"label counts are one per class on both sides, got shapes {own.shape} and {fleet.shape}"
        )
    if not (np.isfinite(own).all() and (own >= 0).all() and np.isfinite(fleet).all() and (fleet > 0).all()):
        raise InputError(
            f"own counts are at least 0 and the fleet's above 0 for every class, got {own.tolist()} and {fleet.tolist()}"
        )
    if not strength > 0:
        raise InputError(f"a strength is above 0, got {strength}")
    fleet_share = fleet / fleet.sum()
    own_share = (own + strength * fleet_share) / (own.sum() + strength)
    shift = np.log(own_share) - np.log(fleet_share)
    return LabelPrior(shift=tuple(shift.tolist()), fitted_on=int(own.sum()))
