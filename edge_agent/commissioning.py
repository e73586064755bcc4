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
        self.standardiser: Standardiser | None = memory.load_standardiser(len(sensors.names))
        self._centre, self._scale = sensors.scale_of(self.standardiser)

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
        self.standardiser = self._sensors.fit_scale(np.stack([raw for raw, _ in gathered]))
        self._centre, self._scale = self._sensors.scale_of(self.standardiser)
        self._memory.save_standardiser(self.standardiser)
        return [(self.standardise(raw), at_s) for raw, at_s in gathered]

    def standardise(self, features: Float) -> Float:
        """Raw features (F,) in units of this machine's healthy variation; equals `Standardiser.apply`."""
        row = features - self._centre
        np.divide(row, self._scale, out=row)
        np.maximum(row, -CLIP, out=row)
        np.minimum(row, CLIP, out=row)
        return row
