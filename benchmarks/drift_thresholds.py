"""Calibrates the EWMA-histogram's threshold by simulation and prints the constants of `models.drift.calibration`.

Each chain draws its own reference of n windows, sets nine edges from it, and then watches L windows of the same
distribution. The largest statistic of a chain follows a Gumbel law, so P(no alarm in L) = exp(-L / ARL0) gives

    threshold(ARL0) = location + scale · (ln ARL0 - ln L)

The statistic depends on ranks alone, so uniform draws stand for every continuous distribution. Run:

    python benchmarks/drift_thresholds.py            about 2 minutes on one core; prints one JSON line per (λ, n)
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

BINS = 10
WINDOWS = 20_000
CHAINS = 600
REFERENCES = (60, 120, 250, 1000, 10**9)
RATES = (0.01, 0.002)


def chain_maxima(reference: int, rates: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Largest statistic of each chain, shape (rates, CHAINS)."""
    edges = np.tile(np.arange(1, BINS) / BINS, (CHAINS, 1))
    if reference < 10**8:
        rows = rng.random((CHAINS, reference))
        edges = np.quantile(rows, np.arange(1, BINS) / BINS, axis=1, method="median_unbiased").T
    p = np.full((len(rates), CHAINS, BINS), 1 / BINS)
    largest = np.zeros((len(rates), CHAINS))
    chain = np.arange(CHAINS)
    keep = 1 - rates
    statistic = np.zeros((len(rates), CHAINS))
    weight = np.ones(len(rates))
    for _ in range(WINDOWS):
        b = (rng.random((CHAINS, 1)) > edges).sum(axis=1)
        p_b = p[:, chain, b] * weight[:, None]
        r = rates[:, None]
        statistic = statistic * (1 - r) ** 2 + 2 * r * (1 - r) * (p_b - 1 / BINS) + r * r * (1 - 1 / BINS)
        weight *= keep
        p[:, chain, b] += r / weight[:, None]
        if weight.min() < 1e-3:
            p *= weight[:, None, None]
            weight[:] = 1.0
        np.maximum(largest, statistic, out=largest)
    return largest


def gumbel_fit(maxima: NDArray[np.float64]) -> tuple[float, float]:
    """(location, scale) by maximum likelihood: fixed-point iteration on the scale."""
    scale = float(maxima.std() * 6**0.5 / np.pi)
    for _ in range(200):
        w = np.exp(-(maxima - maxima.min()) / scale)
        scale = 0.5 * scale + 0.5 * float(maxima.mean() - (w * maxima).sum() / w.sum())
    w = np.exp(-(maxima - maxima.min()) / scale)
    return float(maxima.min() - scale * np.log(w.mean())), scale


def main() -> None:
    rng = np.random.default_rng(2026)
    for reference in REFERENCES:
        maxima = chain_maxima(reference, np.asarray(RATES), rng)
        for rate, row in zip(RATES, maxima, strict=True):
            location, scale = gumbel_fit(row)
            intercept = location - scale * np.log(WINDOWS)
            print(
                json.dumps(
                    {
                        "rate": rate,
                        "reference": reference,
                        "intercept": round(intercept, 6),
                        "slope": round(scale, 6),
                        "at_arl0_10000": round(intercept + scale * np.log(10_000), 5),
                        "simulated_at_10000": round(float(np.quantile(row, np.exp(-WINDOWS / 10_000))), 5),
                        "at_arl0_1e6": round(intercept + scale * np.log(1e6), 5),
                        "simulated_at_1e6": round(float(np.quantile(row, np.exp(-WINDOWS / 1e6))), 5),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
