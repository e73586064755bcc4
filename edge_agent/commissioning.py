"""Learning one machine's own scale from its first windows, and giving every later window in it.

It gathers raw features until there are enough, fits the scale once and keeps it: refitting would hide the very drift
that it should show. It knows no model and no alarm; `edge_agent.pipeline` does.

::

    features ─► gather ─► enough? ─► fit ─► standardiser.json ─► the gathered rows, now in this machine's units

Invariant: after `is_done` turned true, `standardise` means the same for every window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.detection_memory import DetectionMemory
from edge_agent.settings import DetectionSettings
from models.sensors import SensorView
from models.standardiser import CLIP, Standardiser

__all__ = ["Commissioning"]

Float = NDArray[np.float32]


class Commissioning:
    """This machine's scale: gathered, fitted, kept.

    Attributes:
        standardiser: the scale; None until it is known.
    """

    def __init__(self, sensors: SensorView, settings: DetectionSettings, memory: DetectionMemory) -> None:
        """Continue from what is remembered.

        Args:
            sensors: what the values of a row are.
            settings: how many windows make a scale.
            memory: what survives a restart.
        """
        self._sensors = sensors
        self._settings = settings
        self._memory = memory
        self._gathered: list[tuple[Float, float]] = []
        self._use(memory.load_standardiser(len(sensors.names)))

    @property
    def is_done(self) -> bool:
        """Is this machine's scale known?"""
        return self.standardiser is not None

    def gather(self, features: Float, machine_s: float) -> list[tuple[Float, float]]:
        """Take one window's raw features (F,), observed at `machine_s`.

        Returns:
            Every gathered window in the scale that this one completed, oldest first; nothing before.
        """
        self._gathered.append((features, machine_s))
        if len(self._gathered) < self._settings.commissioning_windows:
            return []
        gathered, self._gathered = self._gathered, []
        raw = np.stack([features for features, _ in gathered])
        standardiser = self._sensors.fit_scale(raw)
        self._use(standardiser)
        self._memory.save_standardiser(standardiser)
        rows = self._sensors.standardise(raw, standardiser)
        rows[self._sensors.find_glitches(raw)] = 0.0  # the sensor's own mean: nothing is taught of a glitch
        return [(row, at_s) for row, (_, at_s) in zip(rows, gathered, strict=True)]

    def _use(self, standardiser: Standardiser | None) -> None:
        self.standardiser = standardiser
        self._centre, self._scale = self._sensors.scale_of(standardiser)
        self._centred = np.empty_like(self._centre)

    def standardise(self, features: Float) -> Float:
        """Raw features (F,) in units of this machine's healthy variation; equals `Standardiser.apply`."""
        np.subtract(features, self._centre, out=self._centred)
        np.divide(self._centred, self._scale, out=self._centred)
        row: Float = self._centred.astype(np.float32)
        np.maximum(row, -CLIP, out=row)
        np.minimum(row, CLIP, out=row)
        return row
