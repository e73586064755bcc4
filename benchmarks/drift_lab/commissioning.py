"""What a reference of a few hundred windows is worth: false alarms with and without the block bootstrap, and the delay.

Each life fits its own reference on its first `reference` windows, exactly as a device does, and then lives on unchanged
for `windows` more. A device with one sensor and a wanted run length A should alarm in 1 - exp(-windows / A) of the lives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift_lab.curves import World
from drift_lab.ours import OurDetectors
from drift_lab.worlds import CHANGES, latent_lives, live
from models.drift.bootstrap import fit_calibrated_reference
from models.drift.monitor import DriftSettings
from models.drift.reference import DriftReference, fit_reference

__all__ = ["Commissioned", "measure_commissioning"]


@dataclass(frozen=True, kw_only=True)
class Commissioned:
    """Shares of lives with a false alarm (and what was wanted), and the mean delay of a shift of one deviation."""

    world: World
    reference: int
    is_bootstrapped: bool
    wanted: float
    alarmed: float
    half_width: float
    mean_factor: float
    delay: float


def measure_commissioning(
    world: World, *, reference: int, lives: int, windows: int, run_length: float, rng: np.random.Generator
) -> list[Commissioned]:
    """Without and with the bootstrap."""
    source = latent_lives(lives, world.phi, rng)
    healthy = np.stack([live(world.distribution, next(source)) for _ in range(reference)])
    after = np.stack([live(world.distribution, next(source)) for _ in range(windows)])
    fitted = fit_reference(healthy, np.ones(reference))
    settings = DriftSettings(
        run_length=run_length / 2
    )  # a device of one sensor has two columns: it and the score
    factors = np.array(
        [
            fit_calibrated_reference(column[:, None], np.ones(reference), settings, rng=rng).threshold_factor
            for column in healthy.T
        ]
    )
    return [
        _measure(world, fitted, after, run_length=run_length, factors=chosen, rng=rng)
        for chosen in (np.ones(lives), factors)
    ]


def _measure(
    world: World,
    fitted: DriftReference,
    after: NDArray[np.float64],
    *,
    run_length: float,
    factors: NDArray[np.float64],
    rng: np.random.Generator,
) -> Commissioned:
    windows, lives = after.shape
    alarmed = np.isfinite(_first(fitted, after, run_length, factors, rng)).mean()
    shifted = after[:600].copy()
    for t in range(100, len(shifted)):
        shifted[t] = CHANGES["mean 1"](shifted[t], shifted[t], t - 100, shifted[t - 1])
    first = _first(fitted, shifted, run_length, factors, rng)
    delays = np.minimum(first[first > 100] - 100, 500)
    return Commissioned(
        world=world,
        reference=fitted.fitted_on,
        is_bootstrapped=bool((factors != 1).any()),
        wanted=1 - math.exp(-windows / run_length),
        alarmed=float(alarmed),
        half_width=1.96 * float((alarmed * (1 - alarmed) / lives) ** 0.5),
        mean_factor=float(factors.mean()),
        delay=float(delays.mean()),
    )


def _first(
    fitted: DriftReference,
    rows: NDArray[np.float64],
    run_length: float,
    factors: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    detectors = OurDetectors(
        msgspec.structs.replace(fitted, threshold_factor=1.0), run_length=run_length, rng=rng
    )
    first = np.full(rows.shape[1], np.inf)
    for t, row in enumerate(rows):
        # Larger thresholds are smaller ratios, but for the runs of equal values, which do not occur here.
        is_over = detectors.update(row) >= factors
        first = np.where(is_over & np.isinf(first), t + 1, first)
    return first
