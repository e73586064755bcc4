"""How much of what a machine shows lies at the end of its scale, sensor by sensor.

Healthy variation ends long before ±8: a sensor that is there again and again is broken, or its scale was learnt in one
regime (one speed, one season, by night) and the machine is in another. Nothing here can tell the two apart, and a scale
that followed by itself would make a fault normal; a person is told, who can ask for more commissioning.

Invariant: costs one copy a window; the arithmetic is done for a block at a time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.standardiser import CLIP

__all__ = ["ClipWatch"]

_BLOCK: Final = 32
_MEMORY_BLOCKS: Final = 8
"""256 windows: long enough that a burst is not a regime."""
LARGE: Final = 0.05
"""A sensor at the end of its scale in as many of the windows: a Gaussian one is there never, t₃ in one of a thousand."""
_NAMED: Final = 3


class ClipWatch:
    """Shares of the recent windows.

    Args:
        width: values F of a row.
        sensors: of which a row holds the same number of values each, in turn.
    """

    def __init__(self, width: int, *, sensors: int) -> None:
        self._block = np.empty((_BLOCK, width), np.float32)
        self._sensors = sensors
        self._filled = self._blocks = 0
        self._shares = np.zeros(sensors)

    @property
    def share(self) -> float:
        """Of all recent values, in [0, 1]."""
        return float(self._shares.mean()) if len(self._shares) else 0.0

    def update(self, row: NDArray[np.float32]) -> None:
        """Add one standardised row (F,)."""
        self._block[self._filled] = row
        self._filled += 1
        if self._filled < _BLOCK:
            return
        self._filled = 0
        self._blocks += 1
        at_end = (np.abs(self._block) >= CLIP).reshape(-1, self._sensors).mean(axis=0)
        self._shares += (at_end - self._shares) / min(self._blocks, _MEMORY_BLOCKS)

    def problem(self, names: tuple[str, ...]) -> str:
        """One sentence if a sensor was at the end for long; empty if none."""
        if self._blocks < _MEMORY_BLOCKS:
            return ""
        far = np.flatnonzero(self._shares > LARGE)
        if not len(far):
            return ""
        worst = far[np.argsort(-self._shares[far], kind="stable")]
        listed = ", ".join(names[i] for i in worst[:_NAMED]) + (" and others" if len(far) > _NAMED else "")
        return (
            f"{listed} at the end of the scale in up to {self._shares[worst[0]]:.0%} of recent windows: a fault, or "
            "commissioning saw one regime only; if the machine is well, fedge-agent recommission --config agent.toml"
        )
