"""After a report: where has the machine come to rest, does it move again from there, and is it back?

A machine that runs at another speed for a month is news once. When drift has been reported, the level of every column is
measured over the next windows; from then on what has left the reference is compared with that new level, by the charts of
a mean alone, and is muted otherwise. What has not moved is compared with the reference as before.

    reported ─► 64 windows ─► level, severity ─► charts of a mean about the level: further change
                                              └─ the charts about the reference go on, unheard: is it back?

What comes back by itself was no lasting change. How far it went is remembered (`Homecoming`), for a machine that does so
every other day shall not be reported every other day. A level of 64 windows is a poor reference for anything but itself:
no spread and no shape is compared with it.

Invariants: sums are ≥ 0; the rows of `Detectors.ratios` that compare a distribution are muted together, column by column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.drift.calibration import threshold
from models.drift.cusum import CHARTS, MEANS, CusumCharts
from models.drift.detectors import DETECTORS, STATISTICS, STUCK
from models.drift.limits import cuts
from models.drift.reference import DriftReference

__all__ = ["Anchor", "Homecoming"]

MEASURED_WINDOWS: Final = 64
"""Standard error of an eighth of a standard deviation, where windows are independent."""

_STATISTIC_OF_CHART: Final = ("small shift", "small shift", "shift", "shift")
_CEILING: Final = 1.5
_SINKING: Final = 1.4
"""Of a threshold: a sum about the reference that has left its ceiling says that the level is on its way back."""

_BITS: Final = 2 ** np.arange(len(DETECTORS), dtype=np.int16)

Float = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Homecoming:
    """What was muted and is not any more: how far each column (F + 1,) was off, and how long each sensor (F,) was stuck."""

    shifts: Doubles
    runs: Doubles


class Anchor:
    """The level of F sensors and of ln score after a report, and which of them have left the reference.

    Args:
        reference: what was normal.
        run_length: ARL0 of each column, windows.
        factor: multiplies every threshold.

    Attributes:
        thresholds: of the charts about the new level (4, F + 1).
        muted: which of `Detectors.ratios` are no news while the machine is away.
    """

    def __init__(self, reference: DriftReference, *, run_length: float, factor: float, muted: Flags) -> None:
        memory = reference.memories
        independent = MEASURED_WINDOWS / memory
        limits = [threshold(name, run_length, fitted_on=independent) for name in _STATISTIC_OF_CHART]
        self.thresholds = factor * np.stack(limits)
        self._inverse = (1.0 / self.thresholds).astype(np.float32)
        self._reference = reference
        self._mean, self._std = reference.centres
        self._scale = self._std.astype(np.float32)
        ceiling = np.zeros((len(CHARTS), len(memory)))
        ceiling[MEANS] = _CEILING * self.thresholds
        nothing = np.zeros(len(memory))
        # The charts allow for a level of so few windows already: half of that is what a wander is allowed for.
        self._doubt = 0.75 * memory / MEASURED_WINDOWS**0.5
        self._charts = CusumCharts(
            memory=memory, fitted_on=independent, wander=nothing, swing=nothing, ceiling=ceiling
        )
        self.muted = muted.copy()
        self._moved = muted.copy()
        self._level = self._mean.copy()
        self._measured = 0
        self._farthest, self._longest = nothing.copy(), np.zeros(reference.sensors)
        self._cut = cuts(reference, nothing)

    @property
    def is_measured(self) -> bool:
        """Is there a level to compare with?"""
        return self._measured >= MEASURED_WINDOWS

    @property
    def shifts(self) -> Doubles:
        """How far the level of each column (F + 1,) that is muted lies from the reference, in its standard deviations."""
        return np.where(self.muted[STATISTICS].any(axis=0), (self._level - self._mean) / self._std, 0.0)

    def begin(self, over: Flags, rows: Float, wander: Doubles) -> None:
        """Measure anew from the next window on.

        Args:
            over: which of the ratios have been found over 1, as `muted`.
            rows: the windows (k, F + 1) with which they were.
            wander: of each column, (F + 1,).
        """
        self._moved = over | self.muted
        self._moved[STATISTICS] = self._moved[STATISTICS].any(axis=0)
        off = np.abs((rows.mean(axis=0, dtype=np.float64) - self._mean) / self._std)
        self._farthest = np.where(self._moved[0], np.maximum(self._farthest, off), self._farthest)
        self._level[:] = 0.0
        self._measured = 0
        self._charts.reset()
        self._charts.allow(np.maximum(wander - self._doubt, 0.0))
        self._cut = cuts(self._reference, wander)

    def measure(self, rows: Float) -> None:
        """Take k windows (k, F + 1) into the level."""
        self._measured += len(rows)
        self._level += (rows.sum(axis=0, dtype=np.float64) - len(rows) * self._level) / self._measured

    def settle(self, ratios: Float, stuck: NDArray[np.int16], *, home_below: float) -> Homecoming:
        """The level is measured: mute what has left the reference.

        Args:
            ratios: of the detectors about the reference.
            stuck: windows in a row that each sensor (F,) repeats itself.
            home_below: a ratio below it is at home.
        """
        away = ratios >= home_below
        away[STATISTICS] = away[STATISTICS].any(axis=0)
        self.muted = away
        self._farthest = np.maximum(self._farthest, np.abs(self.shifts))
        self._longest = np.where(away[STUCK, :-1], np.maximum(self._longest, stuck), self._longest)
        return self._come_home(self._moved & ~away)

    def come_home(self) -> Homecoming:
        """The machine is back: nothing is muted any more."""
        back, self.muted = self.muted, np.zeros_like(self.muted)
        return self._come_home(back)

    def news(self, ratios: Float, rows: Float, wander: Doubles) -> Float:
        """The ratios without what is muted, and with how far that has moved on in k windows (k, F + 1)."""
        z = rows - self._level.astype(np.float32)
        z /= self._scale
        np.minimum(z, self._cut, out=z)
        np.maximum(z, -self._cut, out=z)
        self._charts.update(z)
        further = self._charts.statistic[MEANS] * self._inverse
        # On its way back it moves, too: that is told when it has arrived.
        is_returning = (np.abs(self.shifts) > wander) & (ratios[MEANS].max(axis=0) < _SINKING)
        news = np.where(self.muted, np.float32(0.0), ratios)
        news[MEANS] = np.where(self.muted[MEANS] & ~is_returning, further, news[MEANS])
        return news

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Named arrays to save."""
        return {
            "level": self._level,
            "measured": np.array([self._measured], np.int16),
            "muted": _packed(self.muted),
            "moved": _packed(self._moved),
            "farthest": self._farthest.astype(np.float32),
            "longest": self._longest.astype(np.float32),
            "sums": self._charts.statistic[MEANS].copy(),
        }

    def restore(self, state: dict[str, NDArray[np.floating]], wander: Doubles) -> None:
        """Continue from what `state` gave; `models.drift.state_file` has compared the shapes."""
        self._level = np.array(state["level"], np.float64)
        self._measured = int(state["measured"][0])
        self.muted, self._moved = _unpacked(state["muted"]), _unpacked(state["moved"])
        self._farthest = np.array(state["farthest"], np.float64)
        self._longest = np.array(state["longest"], np.float64)
        self._charts.statistic[MEANS] = state["sums"]
        self._charts.allow(np.maximum(wander - self._doubt, 0.0))
        self._cut = cuts(self._reference, wander)

    def _come_home(self, back: Flags) -> Homecoming:
        found = Homecoming(
            shifts=np.where(back[0], self._farthest, 0.0), runs=np.where(back[STUCK, :-1], self._longest, 0.0)
        )
        self._farthest = np.where(back[0], 0.0, self._farthest)
        self._longest = np.where(back[STUCK, :-1], 0.0, self._longest)
        return found


def _packed(flags: Flags) -> NDArray[np.int16]:
    """Rows of flags (9, F + 1) as the bits of one number a column: a saved state must stay small."""
    return (flags.T @ _BITS).astype(np.int16)


def _unpacked(numbers: NDArray[np.floating]) -> Flags:
    return np.asarray((numbers.astype(np.int16)[None] & _BITS[:, None]) != 0)
