"""What a device makes of sensors that deliver nothing: it fills the gap, or says that too little is left to judge.

    standardised row ─► nothing missing ─► as it is, and nothing is paid
                        some missing ─► the conditional mean of the rest (`models.imputation`)
                        more than half missing ─► too little is left

Half is the bound because an estimate is as calm as what was measured allows: a row of estimates is hardly ever over the
threshold, whatever happens, and such a device would look watched and be deaf. With half of twelve sensors missing, one
that is six deviations off is still seen in every window, with ten missing in one of four (`tests/models`).

The estimates come from healthy rows as of before the gap: filled rows are not kept, and so teach nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.imputation import ROWS_FOR_IMPUTATION, Imputer
from models.sensors import SensorView

__all__ = ["Gaps", "listed"]

Float = NDArray[np.float32]
Bools = NDArray[np.bool_]

_LASTING_WINDOWS: Final = 3
"""Windows in a row without a value after which a sensor is said to be missing: one lost reading is no news."""


_RECENT_WINDOWS: Final = 64
_OFTEN: Final = 0.25
"""Missing in this share of recent windows, a sensor is said to be: half of what is judged of it may be an estimate."""

_NOTHING_LEARNT_WINDOWS: Final = 64
"""Windows in a row with a gap after which it is said that nothing is learnt: sensors may take turns, none of them missing."""

_LISTED: Final = 4
_LISTED_CHARACTERS: Final = 40
"""So many names, and so much of each, fit a sentence of 300 characters."""


class Gaps:
    """The gaps of one device. One thread.

    Args:
        sensors: what a row speaks of.
        healthy_rows: the newest healthy standardised rows (n, F), at most so many as asked for.

    Attributes:
        is_any: had the last window a gap?
        is_recent: was there one so lately that whole windows have to be told, too?
    """

    def __init__(self, sensors: SensorView, healthy_rows: Callable[[int], Float]) -> None:
        self._sensors = sensors
        self._healthy_rows = healthy_rows
        self._imputer: Imputer | None = None
        self._runs = np.zeros(len(sensors.parts), np.int64)
        self._which, self._lacking = b"", np.zeros(len(sensors.parts), bool)
        self._shares = np.zeros(len(sensors.parts))
        self._whole = 0
        self.is_any = self.is_recent = False
        self._windows = 0

    @property
    def problem(self) -> str:
        """One sentence if no window has been whole for long; empty otherwise."""
        if self._windows < _NOTHING_LEARNT_WINDOWS:
            often = (self._shares > _OFTEN) & (self._runs < _LASTING_WINDOWS)
            if not often.any():
                return ""
            names = listed([self._sensors.parts[i] for i in np.flatnonzero(often)])
            return f"{names} missing in more than a quarter of recent windows: estimated there, and nothing is learnt of those windows"
        return f"each of the last {_NOTHING_LEARNT_WINDOWS} windows lacked a value: nothing is learnt of such windows"

    @property
    def missing(self) -> tuple[str, ...]:
        """Sensors (channels, where features are computed) that have delivered nothing for some windows now."""
        if not self.is_any:
            return ()
        lasting = np.flatnonzero(self._runs >= _LASTING_WINDOWS)
        return tuple(self._sensors.parts[i] for i in lasting)

    def forget(self) -> None:
        """The rows have another meaning now, or there are others: estimates are made anew when one is needed."""
        self._imputer = None

    def none(self) -> None:
        """A window without a gap; has to be told while `is_recent`."""
        self._runs[:] = 0
        self.is_any, self._windows = False, 0
        self._shares *= 1 - 1 / _RECENT_WINDOWS
        self._whole += 1
        if self._whole > 4 * _RECENT_WINDOWS:
            self._shares[:] = 0
            self.is_recent = False

    def note(self, missing: Bools) -> None:
        """A window whose values (F,) are `missing`, at least one."""
        which = missing.tobytes()
        if not self.is_any or which != self._which:
            self._which, self._lacking = which, self._sensors.missing_parts(missing)
            self._runs[~self._lacking] = 0
        self._runs += self._lacking
        self._shares += (self._lacking - self._shares) / _RECENT_WINDOWS
        self.is_any = self.is_recent = True
        self._whole = 0
        self._windows += 1

    def fill(self, row: Float, missing: Bools) -> Float | None:
        """A new row (F,) with estimates where values (F,) are `missing`; None where more than half of them are."""
        if 2 * int(np.count_nonzero(missing)) > len(missing):
            return None
        if self._imputer is None:
            self._imputer = Imputer(self._healthy_rows(ROWS_FOR_IMPUTATION), len(self._sensors.names))
        return self._imputer.fill(row, missing)

    def tell(self, missing: Bools) -> str:
        """One line on a window of which too much is `missing` (F,)."""
        parts = self._sensors.parts
        lacking = [parts[i] for i in np.flatnonzero(self._sensors.missing_parts(missing))]
        return f"{len(lacking)} of {len(parts)} sensors deliver no finite number ({listed(lacking)}); at least half must"


def listed(names: Sequence[str]) -> str:
    """Names for a person, few of them whole."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(name[:_LISTED_CHARACTERS] for name in names[:_LISTED]) + more
