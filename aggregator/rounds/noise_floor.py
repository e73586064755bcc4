"""Reading histograms out of a noised sum: what cannot be told from noise counts as nothing.

A histogram of a few hundred bins, each with its share of noise, is negative in places and has a little of everything
everywhere; quantiles and outer bounds read from it would be those of the noise. Bins below a few standard deviations are set to
zero. Working on what is already private costs no privacy. What is lost is honest: values that too few
devices have.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from protocol.questions import AnswerLayout
from protocol.secure_answers import NoisedEncoding

__all__ = ["FLOOR_STDS", "drop_noise_floor"]

FLOOR_STDS: Final = 4.0
"""One bin in 30 000 is taken for more than noise when it is not: less than one in an assessment."""

_HISTOGRAMS: Final = frozenset(
    {
        "candidate_scores",
        "champion_scores",
        "candidate_probe_scores",
        "champion_probe_scores",
        "threshold_votes",
        "range_low",
        "range_high",
        "feature_counts",
    }
)
_NOT_NEGATIVE: Final = frozenset({"candidate_loss", "champion_loss", "feature_squares"})


def drop_noise_floor(
    total: NDArray[np.float64], layout: AnswerLayout, encoding: NoisedEncoding
) -> NDArray[np.float64]:
    """The same sum, float64 (layout.total,), with bins in the noise at zero and no negative counts or losses."""
    parts = layout.unpack(total)
    for name, values in parts.items():
        if name in _HISTOGRAMS:
            parts[name] = np.where(values < FLOOR_STDS * encoding.noise_std(name), 0.0, values)
        elif name in _NOT_NEGATIVE:
            parts[name] = np.maximum(values, 0.0)
    return np.concatenate([parts[name] for name in layout.sizes])
