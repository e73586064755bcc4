"""Sight, measured while a machine is watched: now and then the latest window is disturbed and judged once more.

It runs between windows, at most once a window and so often a minute as the settings say. It changes nothing that
detection knows: no alarm, no drift, no row that is kept. What is disturbed, and why, is `models.sight`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_agent.judges import Judge
from models.errors import ModelError
from models.sensors import SensorView
from models.sight import SightMeter

__all__ = ["LiveSight"]

Float = NDArray[np.float32]
Bools = NDArray[np.bool_]


class LiveSight:
    """One device's sight under the judge in force.

    Args:
        sensors: what a row speaks of.
        per_minute: probes in a minute of the clock that `probe` is given.
        healthy_rows: the newest healthy standardised rows (n, F), for the principal direction.
    """

    def __init__(self, sensors: SensorView, per_minute: float, healthy_rows: Callable[[], Float]) -> None:
        self._sensors = sensors
        self._every_s = 60.0 / per_minute
        self._healthy_rows = healthy_rows
        self._meter = SightMeter(len(sensors.names))
        self._due_s = float("-inf")
        self._latest: tuple[Float, Bools | None] | None = None

    @property
    def share(self) -> float | None:
        """The share of disturbed windows that were over the threshold, in [0, 1]; None before there were ten."""
        return self._meter.share

    def reset(self) -> None:
        """Another judge is in force."""
        self._meter.reset()
        self._latest = None

    def see(self, row: Float, missing: Bools | None, *, is_over: bool) -> None:
        """The latest window (F,), and which of its values are `missing` (F,); one over the threshold is not disturbed."""
        self._latest = None if is_over else (row, missing)

    def probe(self, clock_s: float, judge: Judge) -> None:
        """Disturb the latest window if it is time for it and note what the judge in force says."""
        if self._latest is None or clock_s < self._due_s:
            return
        (row, missing), self._latest = self._latest, None
        self._due_s = clock_s + self._every_s
        if not self._meter.is_aimed:
            self._meter.aim(self._healthy_rows())
        lacking = None if missing is None else self._sensors.missing_sensors(missing)
        with contextlib.suppress(ModelError):  # the next window will tell
            self._meter.probe(judge.probe, row, judge.threshold.value, missing=lacking)
