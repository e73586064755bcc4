"""What a reference of a few hundred windows is worth: false alarms with and without the replay, and the delay.

Each life fits its own reference on its first `reference` windows, exactly as a device does, and then lives on unchanged
for `windows` more. A device with one sensor and a wanted run length A should report in 1 - exp(-windows / A) of the lives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drift_lab.curves import World
from drift_lab.worlds import CHANGES, latent_lives, live
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.reference import DriftReference, fit_reference
from models.drift.replay import fit_calibrated_reference

__all__ = ["Commissioned", "measure_commissioning"]

_SHIFT_AT = 100
_LONGEST = 500


@dataclass(frozen=True, kw_only=True)
class Commissioned:
    """Shares of lives with a false alarm (and what was wanted), and the mean delay of a shift of one deviation."""

    world: World
    reference: int
    is_replayed: bool
    wanted: float
    alarmed: float
    half_width: float
    wandering: float
    delay: float


def measure_commissioning(
    world: World, *, reference: int, lives: int, windows: int, run_length: float, rng: np.random.Generator
) -> list[Commissioned]:
    """Without and with the replay."""
    source = latent_lives(lives, world.phi, rng)
    healthy = np.stack([live(world.distribution, next(source)) for _ in range(reference)])
    after = np.stack([live(world.distribution, next(source)) for _ in range(windows)])
    shifted = after[: _SHIFT_AT + _LONGEST].copy()
    for t in range(_SHIFT_AT, len(shifted)):
        shifted[t] = CHANGES["mean 1"](shifted[t], shifted[t], t - _SHIFT_AT, shifted[t - 1])
    # A device of one sensor has two columns: it and the score, which says nothing here.
    settings = DriftSettings(run_length=run_length / 2)
    ones = np.ones(reference)
    found = []
    for is_replayed in (False, True):
        fitted = [
            fit_calibrated_reference(column[:, None], ones, settings)
            if is_replayed
            else fit_reference(column[:, None], ones)
            for column in healthy.T
        ]
        alarmed = np.mean([_first(f, x, settings) < windows for f, x in zip(fitted, after.T, strict=True)])
        first = np.array([_first(f, x, settings) for f, x in zip(fitted, shifted.T, strict=True)])
        late = first[first >= _SHIFT_AT] - _SHIFT_AT + 1
        found.append(
            Commissioned(
                world=world,
                reference=reference,
                is_replayed=is_replayed,
                wanted=1 - math.exp(-windows / run_length),
                alarmed=float(alarmed),
                half_width=1.96 * float((alarmed * (1 - alarmed) / lives) ** 0.5),
                wandering=float(np.mean([f.is_wandering for f in fitted])),
                delay=float(np.minimum(late, _LONGEST).mean()),
            )
        )
    return found


def _first(reference: DriftReference, column: NDArray[np.float64], settings: DriftSettings) -> float:
    """The window of the first report; infinite without one."""
    monitor = DriftMonitor(reference, settings)
    for t, x in enumerate(column[:, None]):
        monitor.update(x, 1.0)
        if monitor.reports:
            return t
    return math.inf
