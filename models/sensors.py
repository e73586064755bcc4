"""Which sensors a row of the model's input speaks of: for its scale, for drift, for what is missing, and for alarms.

Ready features are sensors themselves. A raw window is some hundred values of a few channels: its scale is the
channel's, drift is watched on each channel's level and spread within the window, and the channel is to blame, not
sample 37 of it. A drift monitor of one histogram a value would need that many times the memory, and false alarms.

    row (F,) = samples x channels ─┬─ one mean and deviation a channel ──► standardised row (F,)
                                   ├─ level and log spread a channel ────► drift monitor
                                   ├─ part in the score a channel ───────► contributors
                                   └─ any sample that is NaN ────────────► missing

Invariants: everything keeps the order of `FeatureSpec.names`; nothing here has state.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from models.standardiser import Standardiser, find_glitches, fit_standardiser
from protocol.manifest import FeatureSpec

__all__ = ["SensorView"]

Float = NDArray[np.float32]
Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]

_KEPT_OF_A_NAME: Final = 190
"""Characters of a channel's name in a watched column's: a finding's sensor may have 200."""

_SMALLEST_SPREAD: Final = 1e-3
"""Added before the logarithm, in units of healthy variation: a stuck channel stays finite, and constant."""


_NOTHING: Final = np.array(np.nan, np.float32)


class SensorView:
    """What `spec` says about the values of a row.

    Attributes:
        names: sensors: features, or channels of a raw window.
        watched: columns of `watch`, for a drift monitor.
        parts: what can fail by itself: channels where features are computed of them, else the sensors.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.names: Final = spec.names
        # A window of one sample has no spread: it is a row of ready values.
        self._samples: Final = spec.window_samples if spec.kind == "raw" else 1
        self._average = np.full(self._samples, 1.0 / self._samples, np.float32)
        self._smallest_spread = np.float32(_SMALLEST_SPREAD)
        self.watched: Final[tuple[str, ...]] = (
            self.names
            if self._samples == 1
            else tuple(
                f"{name[:_KEPT_OF_A_NAME]} {what}" for what in ("level", "spread") for name in self.names
            )
        )
        is_computed = spec.kind == "vibration"
        self.parts: Final[tuple[str, ...]] = (
            tuple(f"ch{c}" for c in range(1, spec.channels + 1)) if is_computed else self.names
        )
        # How a row divides into parts: channel after channel, or sample after sample.
        self._by_part: Final = (spec.channels, -1, 1) if is_computed else (1, self._samples, len(self.names))

    def fit_scale(self, rows: Floats) -> Standardiser:
        """Centre and scale of each sensor from healthy rows (n, F); raises ValueError as `fit_standardiser`."""
        fitted = fit_standardiser(np.asarray(rows).reshape(-1, len(self.names)))
        return replace(fitted, fitted_on=len(rows))

    def scale_of(self, standardiser: Standardiser | None) -> tuple[Doubles, Doubles]:
        """(centre (F,), scale (F,)) of each value of a row; empty before commissioning."""
        if standardiser is None:
            return np.zeros(0), np.ones(0)
        return np.tile(standardiser.mean, self._samples), np.tile(standardiser.scale, self._samples)

    def find_glitches(self, rows: Floats) -> NDArray[np.bool_]:
        """Which values of rows (n, F), in the order of time, no machine produced: `standardiser.find_glitches`."""
        found = find_glitches(np.asarray(rows).reshape(-1, len(self.names)))
        return found.reshape(np.shape(rows))

    def furthest_from(self, centre: Floats, features: Floats) -> Doubles:
        """The value of each sensor in a raw row (F,) that is furthest from its `centre` (S,)."""
        windows = np.asarray(features, np.float64).reshape(self._samples, len(self.names))
        furthest = np.abs(windows - centre).argmax(axis=0)[None]
        return np.asarray(np.take_along_axis(windows, furthest, axis=0)[0])

    def standardise(self, rows: Floats, standardiser: Standardiser) -> Float:
        """Rows (n, F) in units of healthy variation, clipped as `Standardiser.apply` does."""
        flat = np.asarray(rows).reshape(-1, len(self.names))
        return standardiser.apply(flat).reshape(np.shape(rows))

    def watch(self, rows: Float) -> Float:
        """What drift is looked for in: (n, len(watched)) for standardised rows (n, F), or of one row (F,)."""
        if self._samples == 1:
            return rows
        windows = rows.reshape(*rows.shape[:-1], self._samples, len(self.names))
        # Products with 1/n: np.mean and np.std take three times as long for one small window.
        level = self._average @ windows
        centred = windows - level[..., None, :]
        spread = np.sqrt(self._average @ np.square(centred, out=centred))
        return np.concatenate([level, np.log(spread + self._smallest_spread)], axis=-1)

    def missing_parts(self, missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which `parts` (P,) lack something, of a row whose values (F,) are `missing`."""
        return np.asarray(missing.reshape(self._by_part).any(axis=1).ravel())

    def missing_sensors(self, missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which sensors (S,), those of `names`, lack something, of a row whose values (F,) are `missing`."""
        return np.asarray(missing.reshape(self._samples, -1).any(axis=0))

    def watch_all_but(self, row: Float, missing: NDArray[np.bool_]) -> Float:
        """`watch` of one row (F,), NaN for the sensors of which something was `missing` (F,)."""
        if self._samples == 1:
            return np.where(missing, _NOTHING, row)
        watched = self.watch(row)
        watched.reshape(-1, len(self.names))[:, self.missing_sensors(missing)] = np.nan
        return watched

    def blame(self, parts: Float, count: int) -> tuple[str, ...]:
        """Names of the `count` sensors whose values have the largest parts (F,) in a score, worst first."""
        sums = parts.reshape(self._samples, len(self.names)).sum(axis=0)
        return tuple(self.names[i] for i in np.argsort(-sums, kind="stable")[:count])
