"""The window that made an alarm, drawn: a line for each channel, those that made the score first.

A window is what a device sent, so nothing of it is believed: where its bytes are not the values that its shape promises, there is
nothing to draw, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fleet.dashboard.charts.lines import Band, TimeAxis, draw_strip, sparkline
from fleet.dashboard.charts.scale import Scale, brief
from fleet.lookups.series import Reading

__all__ = ["Channel", "draw_channels", "read_window", "thumbnail"]

POINTS: Final = 300
SMALL: Final = 60
MOST_CHANNELS: Final = 64

Window = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One channel; of a window of one sample there is a `value` and no drawing. `is_blamed`: it is among the contributors."""

    name: str
    is_blamed: bool
    value: str
    drawing: Markup | None


def read_window(content: bytes | None, shape: Sequence[Any]) -> Window | None:
    """The samples as (samples, channels); None where there are none, or they are not what `shape` says."""
    if not content or len(content) % 4:
        return None
    sizes = [size for size in shape if isinstance(size, int) and size > 0]
    if not 1 <= len(sizes) <= 2 or len(sizes) != len(shape) or math.prod(sizes) * 4 != len(content):
        return None
    values = np.frombuffer(content, "<f4")
    return values.reshape((1, -1) if len(sizes) == 1 else sizes)


def draw_channels(
    window: Window, names: Sequence[str], contributors: Sequence[str], seconds: float | None
) -> list[Channel]:
    """Every channel (at most `MOST_CHANNELS`), those that made the score first.

    Args:
        window: (samples, channels).
        names: of the sensors or features of the release; empty: unknown.
        contributors: what the device blames, worst first.
        seconds: how long the window is; None: unknown.
    """
    told = _names(window, names)
    order = _order(told, contributors)[:MOST_CHANNELS]
    return [
        _channel(window[:, at], told[at], is_blamed=is_blamed, seconds=seconds) for at, is_blamed in order
    ]


def thumbnail(window: Window, names: Sequence[str], contributors: Sequence[str]) -> Markup:
    """The channel that made the most of the score, small; of a window of one sample all its values side by side."""
    told = _names(window, names)
    at, _ = _order(told, contributors)[0]
    values = window[0] if len(window) == 1 else window[:, at]
    name = "values of the window" if len(window) == 1 else told[at]
    return sparkline([float(value) for value in _thinned(values, SMALL)], title=name)


def _channel(values: NDArray[np.float32], name: str, *, is_blamed: bool, seconds: float | None) -> Channel:
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(values) == 1:
        return Channel(name=name, is_blamed=is_blamed, value=brief(float(values[0])), drawing=None)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)
    length = seconds or float(len(values))
    axis = TimeAxis(start=0.0, until=length, gap_s=2.5 * length / min(len(values), POINTS))
    drawing = draw_strip(
        Band(name=name, readings=_readings(values, length), kind="blamed" if is_blamed else "other"),
        axis,
        Scale.over(finite.tolist() or [0.0]),
        title=name,
        height=64,
    )
    return Channel(name=name, is_blamed=is_blamed, value=f"{brief(low)} to {brief(high)}", drawing=drawing)


def _readings(values: NDArray[np.float32], length: float) -> list[Reading]:
    """The lowest and the highest of each of `POINTS` parts; parts without a number are gaps."""
    readings = []
    for number, part in enumerate(np.array_split(values.astype(np.float64), min(len(values), POINTS))):
        finite = part[np.isfinite(part)]
        if len(finite):
            at = (number + 0.5) * length / min(len(values), POINTS)
            readings.append(Reading(at, float(finite.min()), float(finite.max())))
    return readings


def _thinned(values: NDArray[np.float32], most: int) -> NDArray[np.float64]:
    """Of each of `most` parts the value that is furthest from the middle of all."""
    doubles = values.astype(np.float64)
    finite = doubles[np.isfinite(doubles)]
    middle = float(np.median(finite)) if len(finite) else 0.0
    parts = np.array_split(doubles, min(len(doubles), most))
    return np.array(
        [part[np.nanargmax(np.abs(part - middle))] if np.isfinite(part).any() else np.nan for part in parts]
    )


def _names(window: Window, names: Sequence[str]) -> list[str]:
    count = window.shape[1]
    return list(names) if len(names) == count else [f"channel {number}" for number in range(1, count + 1)]


def _order(names: Sequence[str], contributors: Sequence[str]) -> list[tuple[int, bool]]:
    """Each channel's number and whether it is blamed; the blamed ones first, in the order of `contributors`.

    Features of a vibration window are blamed by names such as ``ch2.kurtosis``; of one channel the channel is meant.
    """
    blamed: list[int] = []
    for told in contributors:
        found = _number_of(told, names)
        if found is not None and found not in blamed:
            blamed.append(found)
    return [(at, True) for at in blamed] + [(at, False) for at in range(len(names)) if at not in blamed]


def _number_of(told: str, names: Sequence[str]) -> int | None:
    if told in names:
        return list(names).index(told)
    channel = told.partition(".")[0].removeprefix("ch")
    if channel.isascii() and channel.isdecimal() and len(channel) < 4 and 1 <= int(channel) <= len(names):
        return int(channel) - 1
    return 0 if len(names) == 1 else None
