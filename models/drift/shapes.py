"""PSI and the Kolmogorov–Smirnov distance of each sensor, for people: how far is its distribution from the reference's?

Both come from the bins that the histogram counts anyhow, and neither is a test: with two hundred windows PSI is .05 by
chance alone, and .2, which textbooks call drift, with fifty. So each is told with what chance gives on average at as
many independent windows as stand behind it; three times that is worth a look.

    1/n = memory · (1/n of the forgetting histogram + 1/n of the reference)
    PSI = Σ (p - q) ln(p/q)          by chance (bins - 1)/n
    KS  = max |P - Q| at the edges   by chance c/√n, c = .40, .51, .60, .68 for 2, 3, 5, 10 equal bins (simulated)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.ewma_histogram import HISTOGRAM_RATE
from models.drift.reference import DriftReference
from protocol.messages.payloads import SensorShape

__all__ = ["sensor_shapes"]

_KS_BINS: Final = (2.0, 3.0, 5.0, 10.0)
_KS_MEANS: Final = (0.398, 0.512, 0.605, 0.684)


def sensor_shapes(
    histograms: NDArray[np.float64],
    reference: DriftReference,
    names: Sequence[str],
    *,
    windows: int,
    most: int,
) -> tuple[SensorShape, ...]:
    """PSI and KS of the sensors that differ most, in units of what chance gives.

    Args:
        histograms: p of each sensor (F, 10), by the reference's bins.
        reference: whose masses are q.
        names: of the sensors, F.
        windows: counted so far; fewer than a histogram remembers make it a mixture with the reference.
        most: how many are told.
    """
    q = np.array([bins.masses for bins in reference.columns[:-1]]).reshape(-1, histograms.shape[1])
    forgotten = 1.0 - (1.0 - HISTOGRAM_RATE) ** (2 * max(windows, 1))
    counted = (2.0 - HISTOGRAM_RATE) / (HISTOGRAM_RATE * forgotten)
    n = 1.0 / (reference.memories[:-1] * (1.0 / counted + 1.0 / reference.fitted_on))
    smallest = 0.5 / counted
    p_seen, q_seen = np.maximum(histograms, smallest), np.maximum(q, smallest)
    is_used = (q > 0) | (histograms > smallest)
    psi = np.where(is_used, (p_seen - q_seen) * np.log(p_seen / q_seen), 0.0).sum(axis=1)
    ks = np.abs(np.cumsum(histograms - q, axis=1)).max(axis=1)
    bins = np.maximum(np.count_nonzero(q, axis=1), 2)
    psi_by_chance = (bins - 1) / n
    ks_by_chance = np.interp(bins, _KS_BINS, _KS_MEANS) / np.sqrt(n)
    worst = np.argsort(-psi / psi_by_chance, kind="stable")[:most]
    return tuple(
        SensorShape(
            sensor=names[i],
            psi=_brief(psi[i]),
            psi_by_chance=_brief(psi_by_chance[i]),
            ks=_brief(ks[i]),
            ks_by_chance=_brief(ks_by_chance[i]),
        )
        for i in worst
    )


def _brief(value: float) -> float:
    return float(f"{value:.3g}")
