"""Run lengths without a change and delays with one, with their 95 % intervals.

A detector is held to a run length by the level that its largest statistic exceeds in 1 - exp(-T / ARL0) of many healthy
lives of T windows. With that level the same detector then meets lives that change after `HISTORY` windows. A life that
had raised the alarm before does not count. A delay is the number of changed windows up to and with the alarm, at most
`LONGEST` (`found` says how many were shorter).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from drift_lab.rivals import LivesDetector
from drift_lab.worlds import CHANGES, known_reference, latent_lives, live
from models.drift.reference import DriftReference

__all__ = [
    "HISTORY",
    "LONGEST",
    "Delay",
    "Make",
    "World",
    "delays",
    "healthy_maxima",
    "level_for",
    "run_length_of",
]

HISTORY: Final = 500
LONGEST: Final = 1000

Make = Callable[[DriftReference, np.random.Generator], LivesDetector]


@dataclass(frozen=True, kw_only=True)
class World:
    """A distribution of `drift_lab.worlds` with autocorrelation `phi`."""

    distribution: str
    phi: float

    def __str__(self) -> str:
        """As the figures and the JSON name it."""
        return self.distribution if not self.phi else f"{self.distribution}, autocorrelation {self.phi:g}"


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Mean windows to the alarm with half the width of its 95 % interval; `found` is the share within `LONGEST`."""

    mean: float
    half_width: float
    found: float
    lives: int


def healthy_maxima(
    world: World, make: Make, *, lives: int, lengths: Sequence[int], rng: np.random.Generator
) -> dict[int, NDArray[np.float64]]:
    """The largest statistic of each healthy life within each of the `lengths` (windows)."""
    detector = make(known_reference(world.distribution, lives, phi=world.phi), rng)
    largest, found = np.zeros(lives), {}
    for t, z in zip(range(1, max(lengths) + 1), latent_lives(lives, world.phi, rng), strict=False):
        np.maximum(largest, detector.update(live(world.distribution, z)), out=largest)
        if t in lengths:
            found[t] = largest.copy()
    return found


def level_for(maxima: dict[int, NDArray[np.float64]], run_length: float) -> float:
    """The level with this ARL0: a quantile of the maxima over a length near it, where the quantile is best known."""
    length = min(maxima, key=lambda candidate: abs(math.log(candidate / run_length)))
    return float(np.quantile(maxima[length], math.exp(-length / run_length)))


def run_length_of(maxima: dict[int, NDArray[np.float64]], level: float) -> tuple[float, float, float]:
    """(ARL0, lower, upper 95 % bound) of a level, from the longest length."""
    length = max(maxima)
    lives = len(maxima[length])
    alarmed = float(np.count_nonzero(maxima[length] >= level))
    share = (
        np.clip(
            [
                alarmed,
                alarmed + 1.96 * (alarmed * (1 - alarmed / lives)) ** 0.5,
                alarmed - 1.96 * (alarmed * (1 - alarmed / lives)) ** 0.5,
            ],
            0.5,
            lives - 0.5,
        )
        / lives
    )  # fmt: skip - one interval
    mean, low, high = -length / np.log1p(-share)
    return float(mean), float(low), float(high)


def delays(
    world: World,
    change: str,
    make: Make,
    levels: Sequence[float],
    *,
    lives: int,
    rng: np.random.Generator,
) -> list[Delay]:
    """Delays of one detector at several levels, all from the same lives."""
    detector = make(known_reference(world.distribution, lives, phi=world.phi), rng)
    limit = np.asarray(levels)[:, None]
    first = np.full((len(levels), lives), np.inf)
    before = np.zeros(lives)
    for t, z in zip(range(-HISTORY, LONGEST), latent_lives(lives, world.phi, rng), strict=False):
        x = live(world.distribution, z)
        if t >= 0:
            x = CHANGES[change](x, z, t, before)
        is_over = detector.update(x) >= limit
        before = x
        first = np.where(is_over & np.isinf(first), t + 1, first)
        if np.isfinite(first).all():
            break
    return [_summary(row[row > 0]) for row in first]


def _summary(first: NDArray[np.float64]) -> Delay:
    capped = np.minimum(first, LONGEST)
    return Delay(
        mean=float(capped.mean()),
        half_width=1.96 * float(capped.std()) / max(len(capped), 1) ** 0.5,
        found=float(np.isfinite(first).mean()),
        lives=len(capped),
    )
