"""What was read over time: the band between the lowest and the highest of each bucket, with what happened on the same axis.

The database makes the buckets (`fleet.lookups.series`); a chart has some 400 of them however much was measured. A band whose
lowest is its highest is a line. Where nothing was heard for longer than `gap_s` it is broken, and never drawn through.

The page's script finds what a chart says at a place from its own path and the ends of its axes (`data-x0` and so on).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup

from fleet.dashboard.charts.marks import (
    WIDTH,
    Span,
    chart,
    dots,
    element,
    grid,
    labels,
    rules,
    spans,
    stretched,
)
from fleet.dashboard.charts.scale import Scale, brief, time_ticks
from fleet.lookups.series import Reading

__all__ = ["Band", "Happening", "Lasting", "TimeAxis", "draw_lines", "draw_strip", "sparkline"]

TOP: Final = 10
FOOT: Final = 18


@dataclass(frozen=True, kw_only=True)
class Band:
    """One thing that was read; `kind` is its class in the style sheet; a `is_step` holds until the next one."""

    name: str
    readings: Sequence[Reading]
    kind: str = "first"
    is_step: bool = False


@dataclass(frozen=True, kw_only=True)
class Happening:
    """Something at one time; with a `value` it is a dot there, without one an upright line."""

    at: float
    words: str
    kind: str
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Lasting:
    """Something from a time to a time."""

    start: float
    until: float
    words: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """What charts below each other share: [start, until] in Unix seconds, and what happened meanwhile.

    `gap_s`: two readings further apart than this are not joined.
    """

    start: float
    until: float
    gap_s: float
    happenings: Sequence[Happening] = ()
    lastings: Sequence[Lasting] = ()
    scale: Scale = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", Scale(low=self.start, high=max(self.until, self.start + 1)))


def draw_lines(
    bands: Sequence[Band],
    axis: TimeAxis,
    upright: Scale,
    *,
    title: str,
    unit: str = "",
    height: int = 150,
    dotted: Sequence[Happening] = (),
    has_foot: bool = True,
) -> Markup:
    """A chart of `bands` against `upright`.

    Args:
        bands: the first is the one that is spoken of.
        axis: along the chart.
        upright: of every band.
        title: what it shows.
        unit: of its values, for people and the script; empty: none.
        height: in pixels.
        dotted: what happened at a value.
        has_foot: whether times stand below.
    """
    foot = FOOT if has_foot else 2
    inside = height - TOP - foot
    lasting: list[Span] = [
        (axis.scale.place(one.start), axis.scale.place(one.until), one.kind, one.words)
        for one in axis.lastings
        if one.until >= axis.start and one.start <= axis.until
    ]
    happened = [
        (axis.scale.place(one.at), one.kind, one.words)
        for one in axis.happenings
        if axis.start <= one.at <= axis.until
    ]
    points = [
        (axis.scale.place(one.at), TOP + inside * (1 - upright.place(one.value or 0.0)), one.kind, one.words)
        for one in dotted
        if axis.start <= one.at <= axis.until
    ]
    parts = [
        spans(lasting, top=TOP, height=inside),
        grid(upright.ticks(), top=TOP, height=inside),
        rules(happened, top=TOP - 4, height=inside + 4),
        stretched(*(_path(band, axis, upright, inside) for band in bands), top=TOP, height=inside),
        dots(points),
    ]
    if has_foot:
        parts.append(labels(time_ticks(axis.start, axis.until), y=height - 4))
    return chart(
        *parts,
        title=title,
        description=_said(bands, unit),
        height=height,
        data_chart="time",
        data_x0=f"{axis.start:.0f}",
        data_x1=f"{axis.until:.0f}",
        data_y0=upright.low,
        data_y1=upright.high,
        data_unit=unit,
    )


def draw_strip(band: Band, axis: TimeAxis, upright: Scale, *, title: str, height: int) -> Markup:
    """One band alone, without names along its axes."""
    inside = height - 6
    return chart(
        grid([tick for tick in upright.ticks(1) if tick.text == "0"], top=3, height=inside),
        stretched(_path(band, axis, upright, inside), top=3, height=inside),
        title=title,
        description=_said([band], ""),
        height=height,
    )


def sparkline(values: Sequence[float], *, title: str, kind: str = "first", height: int = 36) -> Markup:
    """A small line without axes: the values at even distances; what is not finite is a gap."""
    upright = Scale.over(values)
    axis = TimeAxis(start=0, until=max(len(values) - 1, 1), gap_s=1.5)
    readings = [Reading(at, value, value) for at, value in enumerate(values) if math.isfinite(value)]
    path = _path(Band(name=title, readings=readings, kind=kind), axis, upright, height - 6)
    finite = [reading.low for reading in readings]
    said = f"from {brief(min(finite))} to {brief(max(finite))}" if finite else "no values"
    return chart(stretched(path, top=3, height=height - 6), title=title, description=said, height=height)


def _path(band: Band, axis: TimeAxis, upright: Scale, height: float) -> Markup:
    """Of each run without a gap the highest values forwards and the lowest backwards."""

    def point(at: float, value: float) -> str:
        return f"{WIDTH * axis.scale.place(at):.4g},{height * (1 - upright.place(value)):.4g}"

    drawn = []
    is_line = band.is_step or all(one.low == one.high for one in band.readings)
    for run in _runs(band.readings, math.inf if band.is_step else axis.gap_s):
        if band.is_step:
            drawn.append("M" + _steps(run, axis, upright, height))
            continue
        forth = [point(one.at, one.high) for one in run]
        back = [] if is_line and len(run) > 1 else [point(one.at, one.low) for one in reversed(run)]
        drawn.append("M" + " ".join(forth + back) + ("Z" if back else ""))
    return element(
        "path",
        class_=f"band {band.kind}{' line' if is_line else ''}",
        d="".join(drawn),
        vector_effect="non-scaling-stroke",
        data_name=band.name,
        data_step="yes" if band.is_step else None,
    )


def _steps(run: Sequence[Reading], axis: TimeAxis, upright: Scale, height: float) -> str:
    x = [WIDTH * axis.scale.place(one.at) for one in run]
    y = [height * (1 - upright.place(one.high)) for one in run]
    drawn = [f"{x[0]:.4g},{y[0]:.4g}"]
    for number in range(1, len(run)):
        if y[number] != y[number - 1]:
            drawn += [f"{x[number]:.4g},{y[number - 1]:.4g}", f"{x[number]:.4g},{y[number]:.4g}"]
    return " ".join([*drawn, f"{WIDTH},{y[-1]:.4g}"])


def _runs(readings: Iterable[Reading], gap_s: float) -> list[list[Reading]]:
    runs: list[list[Reading]] = []
    for reading in readings:
        if runs and reading.at - runs[-1][-1].at <= gap_s:
            runs[-1].append(reading)
        else:
            runs.append([reading])
    return runs


def _said(bands: Sequence[Band], unit: str) -> str:
    """What the chart shows, in words."""
    told = []
    for band in bands:
        if not band.readings:
            told.append(f"{band.name}: nothing was told")
            continue
        low = min(one.low for one in band.readings)
        high = max(one.high for one in band.readings)
        last = band.readings[-1]
        within = f"{brief(low)} to {brief(high)}" if low != high else brief(low)
        told.append(f"{band.name}: {within}{unit and ' ' + unit}, last {brief(last.high)}")
    return "; ".join(told)
