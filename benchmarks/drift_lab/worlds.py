"""Worlds that a sensor may live in, and what may happen to it: three distributions, three memories, eight changes.

A world is one sensor with many independent lives (columns of an array), standardised by its own true mean and standard
deviation, so that "half a standard deviation" means the same everywhere. Dependent worlds are first-order autoregressions
of a Gaussian, carried to the other distributions by their quantiles: the marginal law stays what its name says.

Invariants: the same seed gives the same lives; before the change every world has mean 0 and variance 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from models.drift.bins import BINS, Bins
from models.drift.reference import DriftReference
from models.drift.repeats import Repeats

__all__ = ["CHANGES", "DISTRIBUTIONS", "known_reference", "latent_lives", "live"]

Float = NDArray[np.float64]

_GRID: Final = np.linspace(-6.0, 6.0, 6001)
_SHARE: Final = special.ndtr(_GRID)


def _standardised(quantiles: Float) -> Float:
    weight = stats.norm.pdf(_GRID)
    weight /= weight.sum()
    centred = quantiles - (weight * quantiles).sum()
    return np.asarray(centred / np.sqrt((weight * centred**2).sum()))


DISTRIBUTIONS: Final[Mapping[str, Float]] = {
    "gaussian": _GRID,
    "t3": _standardised(stats.t.ppf(_SHARE, 3)),
    "log-normal": _standardised(np.exp(_GRID)),
}
"""Quantiles on the grid of a standard Gaussian; t3 and the log-normal (σ = 1) have a tail that is cut at six."""

_TWO_PEAKS: Final = _standardised(
    np.interp(
        _SHARE,
        0.5 * special.ndtr((_GRID - 0.9) / 0.436) + 0.5 * special.ndtr((_GRID + 0.9) / 0.436),
        _GRID,
    )
)

_RAMP_WINDOWS: Final = 400
_BURST_EVERY, _BURST_LENGTH = 50, 10

Change = Callable[[Float, Float, int, Float], Float]
"""(healthy value, its Gaussian latent, windows since the change, value one window before) → changed value."""

CHANGES: Final[Mapping[str, Change]] = {
    "mean .5": lambda x, _z, _t, _before: x + 0.5,
    "mean 1": lambda x, _z, _t, _before: x + 1.0,
    "scale 1.5": lambda x, _z, _t, _before: x * 1.5,
    "scale .5": lambda x, _z, _t, _before: x * 0.5,
    "stuck": lambda x, _z, t, before: x if t == 0 else before,
    "ramp to 1 in 400": lambda x, _z, t, _before: x + min(t / _RAMP_WINDOWS, 1.0),
    "bursts of 1.5": lambda x, _z, t, _before: x + 1.5 * (t % _BURST_EVERY < _BURST_LENGTH),
    "two peaks": lambda _x, z, _t, _before: np.interp(z, _GRID, _TWO_PEAKS),
}
"""What may happen, in standard deviations. Bursts come every 50 windows and last 10; two peaks keep mean and variance."""


def latent_lives(lives: int, phi: float, rng: np.random.Generator) -> Iterator[Float]:
    """Standard Gaussian windows (lives,), one after another, with autocorrelation `phi` in [0, 1)."""
    z = rng.standard_normal(lives)
    fresh = (1.0 - phi**2) ** 0.5
    while True:
        yield z
        z = phi * z + fresh * rng.standard_normal(lives)


def live(distribution: str, z: Float) -> Float:
    """Latent windows as values of a distribution."""
    return z if distribution == "gaussian" else np.asarray(np.interp(z, _GRID, DISTRIBUTIONS[distribution]))


def known_reference(distribution: str, lives: int, *, phi: float = 0.0) -> DriftReference:
    """What an endless commissioning would teach: the true quantiles, tails and memory, for each of `lives` columns."""
    quantiles = DISTRIBUTIONS[distribution]
    edges = np.interp(special.ndtri(np.arange(1, BINS) / BINS), _GRID, quantiles)
    weight = stats.norm.pdf(_GRID)
    below, above = quantiles < edges[0], quantiles > edges[-1]
    low = edges[0] - np.average(quantiles[below], weights=weight[below])
    high = np.average(quantiles[above], weights=weight[above]) - edges[-1]
    return DriftReference(
        edges=(tuple(edges.tolist()),) * lives,
        mean=(0.0,) * lives,
        std=(1.0,) * lives,
        score_mean=1.0,
        score_std=0.4,
        fitted_on=10**9,
        memory=((1 + phi) / (1 - phi),) * lives,
        bins=(Bins(edges=tuple(edges.tolist()), tails=(float(low), float(high))),) * (lives + 1),
        repeats=(Repeats(windows_away=10**9, away=0, longest_away=0),) * lives,
    )
