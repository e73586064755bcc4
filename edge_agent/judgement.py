"""What becomes of one window: a score with what follows from it, or the reason why there is none."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.drift.monitor import DriftVerdict
from models.thresholds import Closed, Opened

__all__ = ["Judged", "Unjudged"]


class Judged(Struct, frozen=True, kw_only=True):
    """What became of one window that was scored.

    Attributes:
        score: what the threshold is compared with, ≥ 0: the anomaly score, on several time scales where the mixture judges.
        threshold: the one in force.
        latency_us: inference with its score, µs.
        may_alarm: would windows like this one alarm, if they went on?
        alarm: an alarm that opened or closed with this window.
        episode: the name of the anomaly that opened.
        contributors: the sensors that deviate most, worst first; only when an alarm opened.
        drift: the verdict if drift began or ended with this window.
        row: the window (F,), standardised, gaps filled, at `machine_s` of the machine's clock; `seen` is what was
            judged of it.
        is_calm: no anomaly goes on or ended just now, and no drift or level that nobody has called normal.
    """

    score: float
    threshold: float
    latency_us: float
    may_alarm: bool = False
    alarm: Opened | Closed | None = None
    episode: str = ""
    contributors: tuple[str, ...] = ()
    drift: DriftVerdict | None = None
    row: NDArray[np.float32]
    seen: NDArray[np.float32]
    machine_s: float
    is_calm: bool = True

    @property
    def is_over(self) -> bool:
        """Does the score exceed the threshold? NaN does."""
        return not self.score <= self.threshold


class Unjudged(Struct, frozen=True, kw_only=True):
    """A window without a score: still commissioning, no release yet, or (`error`) it or the model is unusable."""

    error: str | None = None
    is_model_error: bool = False
