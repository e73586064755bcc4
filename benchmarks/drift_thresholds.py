"""Calibrates every drift statistic by simulation and prints the constants of `models.drift.calibration`.

Each chain draws its own reference of n windows, fits a device's reference on it, and then watches L windows of the same
distribution. The largest statistic of a chain follows a Gumbel law, so P(no alarm in L) = exp(-L / ARL0) gives

    threshold(ARL0) = location + scale · (ln ARL0 - ln L)

Gaussian windows stand for every continuous distribution: the histograms use ranks alone, the charts normal scores
(`benchmarks/drift.py` measures how far that carries). The detectors are the device's own classes, a column a chain. Run:

    python benchmarks/drift_thresholds.py            about 2 minutes on one core; prints one JSON line per (statistic, n)
"""

from __future__ import annotations

import json
import math
import sys

import numpy as np
from drift_lab.worlds import known_reference
from numpy.typing import NDArray

from models.drift.cusum import CHARTS, CusumCharts
from models.drift.ewma_histogram import EwmaHistogram
from models.drift.normal_scores import NormalScores
from models.drift.reference import fit_reference

WINDOWS = 20_000
CHAINS = 2000
REFERENCES: tuple[float, ...] = (60, 120, 250, 1000, math.inf)
PAIRS = {"small shift": (0, 1), "shift": (2, 3), "spread up": (4,), "spread down": (5,)}
"""Rows of the charts that are judged together: a mean moves up or down."""
BLOCK = 16
"""Windows between two looks at the histograms, as in the monitor."""


def chain_maxima(reference: float, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Largest statistic of each chain, shape (CHAINS,), by statistic."""
    if math.isinf(reference):
        fitted = known_reference("gaussian", CHAINS)
    else:
        fitted = fit_reference(rng.standard_normal((int(reference), CHAINS)), np.ones(int(reference)))
    scores = NormalScores(fitted.columns)
    columns = CHAINS + 1
    charts = CusumCharts(
        memory=np.ones(columns),
        fitted_on=np.full(columns, reference),
        wander=np.zeros(columns),
        swing=np.zeros(columns),
        ceiling=np.full((len(CHARTS), columns), np.inf),
    )
    histogram = EwmaHistogram(fitted.columns[:-1])
    sums = np.zeros((len(CHARTS), columns), np.float32)
    squares = np.zeros(CHAINS)
    for _ in range(0, WINDOWS, BLOCK):
        rows = rng.standard_normal((BLOCK, columns)).astype(np.float32)
        z = scores(rows)
        histogram.update(scores.cells[:, :-1])
        for i in range(BLOCK):
            charts.update(z[i : i + 1])
            np.maximum(sums, charts.statistic, out=sums)
        np.maximum(squares, histogram.statistic, out=squares)
    found = {name: sums[list(rows), :-1].max(axis=0).astype(np.float64) for name, rows in PAIRS.items()}
    return found | {"histogram": squares}


def gumbel_fit(maxima: NDArray[np.float64]) -> tuple[float, float]:
    """(location, scale) by maximum likelihood: fixed-point iteration on the scale."""
    scale = float(maxima.std() * 6**0.5 / np.pi)
    for _ in range(200):
        w = np.exp(-(maxima - maxima.min()) / scale)
        scale = 0.5 * scale + 0.5 * float(maxima.mean() - (w * maxima).sum() / w.sum())
    w = np.exp(-(maxima - maxima.min()) / scale)
    return float(maxima.min() - scale * np.log(w.mean())), scale


def main() -> None:
    """Simulate each size of reference; progress on stderr."""
    rng = np.random.default_rng(2026)
    for reference in REFERENCES:
        print(f"{CHAINS} references of {reference:g} windows", file=sys.stderr, flush=True)
        for name, maxima in chain_maxima(reference, rng).items():
            location, scale = gumbel_fit(maxima)
            intercept = location - scale * np.log(WINDOWS)
            print(
                json.dumps(
                    {
                        "statistic": name,
                        "reference": None if math.isinf(reference) else reference,
                        "intercept": round(intercept, 6),
                        "slope": round(scale, 6),
                        "at_arl0_10000": round(intercept + scale * np.log(10_000), 5),
                        "simulated_at_10000": round(float(np.quantile(maxima, np.exp(-WINDOWS / 10_000))), 5),
                        "at_arl0_1e6": round(intercept + scale * np.log(1e6), 5),
                        "simulated_at_1e6": round(float(np.quantile(maxima, np.exp(-WINDOWS / 1e6))), 5),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
