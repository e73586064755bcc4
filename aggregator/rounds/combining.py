"""What the sums of several groups say together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.reports import GroupSum

__all__ = ["combine"]


def combine(sums: Sequence[GroupSum]) -> NDArray[np.float64]:
    """One total, in the layout of the groups' own."""
    return np.asarray(np.sum([found.total for found in sums], axis=0), np.float64)
