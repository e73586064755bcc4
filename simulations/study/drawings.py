"""The pictures of a study, by the dashboard's own charts: a machine's held-back time, and the windows that were furthest off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fleet.dashboard.charts.lines import Band, Happening, Lasting, TimeAxis, draw_lines
from fleet.dashboard.charts.marks import chart, element
from fleet.dashboard.charts.scale import Scale, brief
from fleet.lookups.series import Reading
from models.features import make_extractor
from protocol.manifest import FeatureSpec
from simulations.study.notebook import Played, Worst
from simulations.study.subjects import Subject
from simulations.study.understood import FIRST_DATE_S
from simulations.study.verdicts import Verdict

__all__ = ["draw_alarms", "draw_held_back", "draw_worst", "values_around"]

BUCKETS: Final = 300
HIGHEST: Final = 6.0
"""Times the threshold: a higher score is drawn at the top."""
ROW, FOOT = 34, 18
REACH: Final = 60
"""Windows on either side of one of the worst."""


def draw_held_back(subject: Subject, played: Played, verdict: Verdict) -> Markup:
    """Score over threshold through the held-back time, with alarms, labelled faults and drift."""
    times = subject.times_s[subject.learning :]
    lastings = [
        _lasting(times, event.first, event.end, "labelled fault", "event") for event in verdict.events
    ]
    lastings += [_lasting(times, alarm.first, alarm.end, "alarm", "alarm") for alarm in played.alarms]
    start, until = float(times[0]), float(times[-1])
    axis = TimeAxis(
        start=start,
        until=until,
        gap_s=4 * max(until - start, 1.0) / min(len(times), BUCKETS),
        happenings=[
            Happening(at=float(times[at]), words="drift", kind="drift") for at in played.drift_reports
        ],
        lastings=lastings,
    )
    ratios = np.minimum(played.ratios, HIGHEST)
    shown = ratios[np.isfinite(ratios)]
    return draw_lines(
        [
            Band(name="score ÷ threshold", readings=_bucketed(times, ratios)),
            Band(
                name="threshold",
                readings=[Reading(start, 1.0, 1.0), Reading(until, 1.0, 1.0)],
                kind="limit",
                is_step=True,
            ),
        ],
        axis,
        Scale.over([1.3, *shown.tolist()], low=0.0),
        title=f"{subject.name}: score over threshold in held-back time",
        height=120,
        has_foot=subject.has_clock and start >= FIRST_DATE_S,
    )


def draw_alarms(rates: Sequence[tuple[str, float, float, float]], budget: float) -> Markup:
    """False alarms in 1,000 windows of each (name, rate, low, high), with its 95 % interval, beside the budget."""
    along = Scale.over([1.5 * budget, *(high for _, _, _, high in rates)], low=0.0)

    def x(value: float) -> str:
        return f"{100 * (0.02 + 0.96 * along.place(value)):.4g}%"

    drawn, height = Markup(""), ROW * len(rates) + FOOT
    limit = f"budget {budget:g}"
    drawn += element(
        "line",
        element("title", limit),
        class_="rule limit",
        x1=x(budget),
        x2=x(budget),
        y1=0,
        y2=height - FOOT,
    )
    for number, (name, rate, low, high) in enumerate(rates):
        y = ROW * number + 24
        drawn += element("text", f"{name}: {rate:.2g}", x="2%", y=y - 9)
        drawn += element("line", class_="reach", x1=x(low), x2=x(high), y1=y, y2=y)
        drawn += element("circle", class_="dot", cx=x(rate), cy=y, r=4.5)
    for value, words in ((0.0, "0"), (budget, limit), (along.high, f"{brief(along.high)} in 1,000 windows")):
        anchor = "end" if value == along.high else "middle" if value else "start"
        drawn += element("text", words, class_="tick", x=x(value), y=height - 4, text_anchor=anchor)
    said = "; ".join(f"{name} {rate:.2g} ({low:.2g} to {high:.2g})" for name, rate, low, high in rates)
    return chart(
        drawn,
        title="False alarms in 1,000 windows, with 95 % intervals",
        description=f"{said}; {limit}",
        height=height,
    )


def draw_worst(values: NDArray[np.float32], mark: int, sensor: str) -> Markup:
    """A sensor around one window (n,), which is number `mark` of these."""
    readings = [Reading(float(at), float(v), float(v)) for at, v in enumerate(values) if np.isfinite(v)]
    finite = [reading.low for reading in readings]
    axis = TimeAxis(
        start=0.0,
        until=float(max(len(values) - 1, 1)),
        gap_s=1.5,
        happenings=[Happening(at=float(mark), words="this window", kind="limit")],
    )
    return draw_lines(
        [Band(name=sensor, readings=readings)],
        axis,
        Scale.over(finite or [0.0]),
        title=f"{sensor}, {brief(min(finite, default=0.0))} to {brief(max(finite, default=0.0))}",
        height=84,
        has_foot=False,
    )


def values_around(
    subject: Subject, spec: FeatureSpec, worst: Worst, sensor: str
) -> tuple[NDArray[np.float32], int]:
    """(a sensor's values or features of the windows around one of the worst (n,), which of them it is)."""
    at = subject.learning + worst.window
    first, end = max(at - REACH, 0), min(at + REACH + 1, len(subject.windows))
    windows, place = subject.windows[first:end], spec.names.index(sensor)
    if windows.ndim == 2:
        return windows[:, place], at - first
    extract = make_extractor(spec).extract
    return np.array([extract(window)[place] for window in windows], np.float32), at - first


def _bucketed(times: NDArray[np.float64], ratios: NDArray[np.float32]) -> list[Reading]:
    readings = []
    for part in np.array_split(np.arange(len(ratios)), min(len(ratios), BUCKETS)):
        finite = ratios[part][np.isfinite(ratios[part])]
        if len(finite):
            readings.append(Reading(float(times[part].mean()), float(finite.min()), float(finite.max())))
    return readings


def _lasting(times: NDArray[np.float64], first: int, end: int, words: str, kind: str) -> Lasting:
    last: Sequence[float] = times.tolist()
    return Lasting(start=last[first], until=last[min(end, len(times)) - 1], words=words, kind=kind)
