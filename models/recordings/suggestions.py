"""How many rows a window should have, how long a machine should be commissioned, and the period of its load: simple, and explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.machines import Reading

__all__ = ["Suggestion", "suggested"]

_FASTEST_HZ: Final = 50.0
"""From this rate on rows are a vibration, and a window is a stretch of it."""
_WINDOW_S: Final = 0.1
_COMMISSIONED: Final = 0.3
_MOST_ROWS: Final = 4000
_LEAST_PERIODS: Final = 4
_LEAST_CORRELATION: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """In rows; `period_rows` is None where no load repeats. `why` has a sentence for each."""

    window_rows: int
    commissioning_rows: int
    period_rows: int | None
    why: tuple[str, ...]


def suggested(reading: Reading) -> Suggestion:
    """From the rate, the length of the shortest recording and the first peak of the sensors' autocorrelation."""
    rate, shortest = reading.sample_rate_hz, min(len(m.rows) for m in reading.machines)
    why = []
    if rate is not None and rate >= _FASTEST_HZ:
        window = int(min(8192, max(64, 1 << int(np.log2(max(2.0, rate * _WINDOW_S))))))
        why.append(
            f"{rate:g} rows a second are a vibration: a window of {window} rows is {window / rate:.3g} s of it"
        )
    else:
        window = 1
        why.append("each row is a state of the machine by itself: a window is one row")
    period = next((p for m in reading.machines[:5] if (p := _period(m.rows)) is not None), None)
    commissioning = int(_COMMISSIONED * shortest)
    if period is not None:
        lasting = f" ({period / rate:.6g} s)" if rate else ""
        why.append(f"the sensors repeat every {period} rows{lasting}: a load cycle")
        commissioning = max(commissioning, min(2 * period, shortest // 2))
    commissioning = max(window, min(commissioning, _MOST_ROWS * window))
    why.append(
        f"the first {commissioning} rows of each machine are taken as healthy to commission it: at most 30 % of the shortest recording ({shortest} rows)"
    )
    return Suggestion(
        window_rows=window, commissioning_rows=commissioning, period_rows=period, why=tuple(why)
    )


def _period(rows: NDArray[np.float32]) -> int | None:
    """The lag of the first clear peak of the mean autocorrelation, None where there is none."""
    step = max(1, len(rows) // 50_000)
    some = np.nan_to_num(rows[::step].astype(np.float64))
    some = some[:, some.std(axis=0) > 0]
    if len(some) < 40 or not some.shape[1]:
        return None
    some = (some - some.mean(axis=0)) / some.std(axis=0)
    length = len(some)
    spectrum = np.abs(np.fft.rfft(some, 2 * length, axis=0)) ** 2
    correlation = np.fft.irfft(spectrum, axis=0)[: length // _LEAST_PERIODS].mean(axis=1)
    correlation /= correlation[0]
    below = np.flatnonzero(correlation < 0.2)
    if not len(below):
        return None
    peak = int(np.argmax(correlation[below[0] :])) + int(below[0])
    return peak * step if correlation[peak] >= _LEAST_CORRELATION else None
