"""How an agent would best watch recordings like these: what a window is, how long commissioning takes, which cycle there is.

A suggestion follows from sample rate, length and the sensors' own course, never from labels or from what a detector would make of it.
`fedge study` plays recordings with it, and `fedge model from-csv` writes a family's file by the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.features import passthrough_spec, vibration_spec
from models.recordings.machines import Reading
from protocol.manifest import FeatureSpec

__all__ = ["COMMISSIONING", "FEWEST_LEARNING", "VIBRATION_FROM_HZ", "Suggestion", "suggested", "window_for"]

VIBRATION_FROM_HZ: Final = 3200.0
"""From here on rows are raw acceleration, and windows of them become features (`models.features.vibration_spec`)."""

LEARNING_SHARE: Final = 0.4
"""Of the windows. Less is learnt from than is judged: a rate of rare alarms needs the longer part."""
COMMISSIONING: Final = 120
FEWEST_LEARNING: Final = 50
"""Windows: commissioning never settles on fewer than 45."""

_LEAST_PERIODS: Final = 4
_LEAST_CORRELATION: Final = 0.5


def window_for(sample_rate_hz: float) -> int:
    """Samples of a vibration window: about a sixth of a second, a power of two.

    >>> [window_for(rate) for rate in (3200, 12_800, 51_200)]
    [512, 2048, 8192]
    """
    return int(2 ** (round(sample_rate_hz * 0.16).bit_length() - 1))


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """How to watch; `why` has a sentence for each.

    Attributes:
        is_vibration: rows are a waveform, `window_rows` of them a window; else a row is one.
        window_rows: see above.
        commissioning_windows: fewest windows of an agent's commissioning.
        longest_commissioning: most.
        period_rows: a cycle that the sensors show; None: none is plain.
        why: for a person.
    """

    is_vibration: bool
    window_rows: int
    commissioning_windows: int
    longest_commissioning: int
    period_rows: int | None
    why: tuple[str, ...]

    @property
    def fewest_windows(self) -> int:
        """Of a machine: with fewer nothing can be learnt and judged."""
        return round(FEWEST_LEARNING / LEARNING_SHARE)

    def learning_of(self, windows: int) -> int:
        """How many of a machine's windows are learnt from, the first ones."""
        return round(LEARNING_SHARE * windows)

    def features(self, sensors: tuple[str, ...], sample_rate_hz: float | None) -> FeatureSpec:
        """What a source of these sensors delivers; raises FeatureError for sensors or rates that cannot be."""
        if self.is_vibration and sample_rate_hz is not None:
            return vibration_spec(sample_rate_hz, self.window_rows, len(sensors))
        return passthrough_spec(sensors)


def suggested(reading: Reading) -> Suggestion:
    """From the rate, the length of the middle recording, and the first peak of the sensors' autocorrelation."""
    rate, why = reading.sample_rate_hz, []
    step, is_vibration = 1, False
    if rate is not None and rate >= VIBRATION_FROM_HZ:
        step, is_vibration = window_for(rate), True
        why.append(
            f"window: {step:,} rows, {1000 * step / rate:.3g} ms: {rate:,.6g} rows a second are a vibration"
        )
    else:
        why.append("window: one row, a state of the machine by itself")
    # The middle machine decides: one recording that is short must not hurry the others.
    windows = sorted(len(machine.rows) // step for machine in reading.machines)[len(reading.machines) // 2]
    learnable = max(round(LEARNING_SHARE * windows), 20)
    fewest, longest = min(COMMISSIONING, learnable), min(4 * COMMISSIONING, learnable)
    is_short = longest < 4 * COMMISSIONING
    why.append(
        f"commissioning: {fewest:,} windows, up to {longest:,} where the machine has not settled"
        + (f" (all that {LEARNING_SHARE:.0%} of a recording have)" if is_short else "")
    )
    period = (
        None
        if is_vibration
        else next((p for m in reading.machines[:5] if (p := _period(m.rows)) is not None), None)
    )
    lasting = f", {period / rate:.6g} s" if period is not None and rate else ""
    why.append(
        f"period: the sensors repeat every {period:,} rows{lasting}; an agent that is told of it ([detection] period_s) learns its course"
        if period is not None
        else "period: none is plain; an agent looks for a day and a week by itself"
    )
    return Suggestion(
        is_vibration=is_vibration,
        window_rows=step,
        commissioning_windows=fewest,
        longest_commissioning=max(fewest, longest),
        period_rows=period,
        why=tuple(why),
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
