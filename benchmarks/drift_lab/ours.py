"""The device's own detectors over many lives at once, each life with the schedule that the monitor would give it.

A column of `models.drift.detectors.Detectors` is one sensor in one life. The monitor looks at a sensor every 8 windows
while nothing builds up and every 2 from 0.6 of a threshold on (`DriftSettings`); here every life has its own clock for
that, so delays and run lengths are those of a device with one sensor, not of a device with a thousand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.drift.detectors import Detectors
from models.drift.monitor import DriftSettings
from models.drift.reference import DriftReference

__all__ = ["OurDetectors"]

_COUNTED_TOGETHER = 16


class OurDetectors:
    """One detector set per life; `ratio` is what each life's monitor last said.

    Args:
        reference: what is normal in each life.
        run_length: wanted windows between false alarms of one sensor.
        rng: sets each life's clock, so that a change falls anywhere in a block.
    """

    def __init__(
        self,
        reference: DriftReference,
        *,
        run_length: float,
        rng: np.random.Generator,
        settings: DriftSettings | None = None,
    ) -> None:
        self._settings = settings or DriftSettings()
        self._detectors = Detectors(
            reference,
            run_length=run_length,
            factor=self._settings.threshold_factor,
            shortest_stuck=self._settings.stuck_windows,
            missing_windows=self._settings.missing_windows,
        )
        lives = reference.sensors
        self._wait = rng.integers(0, self._settings.block, lives)
        self.ratio = np.zeros(lives)
        self._rows = np.zeros((_COUNTED_TOGETHER, lives + 1), np.float32)
        self._filled = 0

    def update(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """One window of every life, shape (lives,); returns the ratios after it."""
        row = self._rows[self._filled]
        row[:-1] = x
        self._detectors.watch(row[None])
        self._filled += 1
        if self._filled == _COUNTED_TOGETHER:
            self._detectors.count(self._rows)
            self._filled = 0
        is_due = self._wait <= 0
        self.ratio = np.where(is_due, self._detectors.ratios[:, :-1].max(axis=0), self.ratio)
        closer = (self.ratio >= self._settings.closer_above) & (self.ratio < 1.0)
        # What is found to build up is looked at again two windows later, not when the long block would have ended.
        again = np.where(closer, self._settings.closer_block, self._settings.block) - 1
        self._wait = np.where(is_due, again, self._wait - 1)
        return self.ratio
