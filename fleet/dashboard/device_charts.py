"""The charts of a device: its figures below each other on one axis of time, with its alarms and releases on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from markupsafe import Markup

from fleet.dashboard.charts.lines import Band, Happening, Lasting, TimeAxis, draw_lines
from fleet.dashboard.charts.scale import Scale, brief
from fleet.lookups.device_past import Alarm, ReleaseChange
from fleet.lookups.series import Reading, Series
from fleet.storage.event_tables import DriftRecord

__all__ = ["DeviceChart", "draw_device"]

HIGHEST_SCORE: Final = 6.0
"""Times the threshold: a higher score is drawn at the top, so that one of a million does not flatten the rest."""


@dataclass(frozen=True, kw_only=True)
class DeviceChart:
    """One of them; `said` is what it shows last, in a few words."""

    name: str
    title: str
    said: str
    drawing: Markup


def draw_device(
    series: Series, alarms: Sequence[Alarm], changes: Sequence[ReleaseChange], drifts: Sequence[DriftRecord]
) -> list[DeviceChart]:
    """The charts of what was told; of what was not there is none."""
    axis = TimeAxis(
        start=series.start,
        until=series.until,
        gap_s=series.gap_s,
        happenings=[
            Happening(at=change.at, words=f"runs {change.release}", kind="release") for change in changes
        ],
        lastings=_in_alarm(alarms, series),
    )
    figures = series.figures
    drawn = []
    if "score" in figures:
        drawn.append(_score(figures, alarms, axis))
    if "drift" in figures:
        told = [
            Happening(
                at=one.received_at, words=f"drift report: {one.state}", kind="wait", value=one.drift_score
            )
            for one in drifts
        ]
        upright = Scale.over([1.2, *(min(one.high, HIGHEST_SCORE) for one in figures["drift"])], low=0.0)
        drawn.append(
            DeviceChart(
                name="drift",
                title="Drift",
                said=f"{brief(figures['drift'][-1].high)}, a change from 1 on",
                drawing=draw_lines(
                    [Band(name="drift score", readings=figures["drift"]), _limit("change", 1.0, series)],
                    axis,
                    upright,
                    title="Drift score",
                    height=100,
                    dotted=told,
                    has_foot=False,
                ),
            )
        )
    for name, title, unit, factor in _PLAIN:
        if name in figures:
            drawn.append(_plain(name, title, unit, _scaled(figures[name], factor), axis))
    return drawn


_PLAIN: Final = (
    ("over_share", "Windows over the threshold", "%", 100.0),
    ("unjudged_share", "Windows that got no score", "%", 100.0),
    ("sight", "Sight: disturbances it would see", "%", 100.0),
    ("latency_us", "Latency, 99th percentile", "ms", 1e-3),
    ("memory_bytes", "Memory", "MB", 1e-6),
)


def _score(figures: dict[str, list[Reading]], alarms: Sequence[Alarm], axis: TimeAxis) -> DeviceChart:
    thresholds = figures.get("threshold", [])
    known = max([one.high for one in thresholds], default=0.0)
    most = max(
        [one.high for one in figures["score"]]
        + [alarm.anomaly.score for alarm in alarms if axis.start <= alarm.anomaly.received_at]
    )
    high = min(1.05 * most, HIGHEST_SCORE * known) if known > 0 else 1.05 * most
    last = figures["score"][-1].high
    bands = [Band(name="score", readings=figures["score"])]
    if thresholds:
        bands.append(Band(name="threshold", readings=thresholds, kind="limit", is_step=True))
    opened = [
        Happening(
            at=alarm.anomaly.received_at,
            words=f"anomaly {alarm.anomaly.id} opened at {brief(alarm.anomaly.score)}",
            kind="bad",
            value=alarm.anomaly.score,
        )
        for alarm in alarms
    ]
    return DeviceChart(
        name="score",
        title="Score against its threshold",
        said=f"{brief(last)} of {brief(thresholds[-1].high)}" if thresholds else brief(last),
        drawing=draw_lines(
            bands,
            axis,
            Scale.over([0.0, 1.15 * known], low=0.0, high=max(high, 1.15 * known) or 1.0),
            title="Score against its threshold",
            height=220,
            dotted=opened,
        ),
    )


def _plain(name: str, title: str, unit: str, readings: list[Reading], axis: TimeAxis) -> DeviceChart:
    is_share = unit == "%"
    values = [value for one in readings for value in (one.low, one.high)]
    upright = Scale.over(values, low=0.0, high=100.0 if is_share and max(values) > 50 else None)
    if is_share and not any(values):
        upright = Scale(low=0.0, high=5.0)
    return DeviceChart(
        name=name,
        title=title,
        said=f"{brief(readings[-1].high)} {unit}",
        drawing=draw_lines(
            [Band(name=title, readings=readings)],
            axis,
            upright,
            title=title,
            unit=unit,
            height=84,
            has_foot=False,
        ),
    )


def _scaled(readings: Sequence[Reading], factor: float) -> list[Reading]:
    return [Reading(one.at, factor * one.low, factor * one.high) for one in readings]


def _limit(name: str, value: float, series: Series) -> Band:
    return Band(name=name, readings=[Reading(series.start, value, value)], kind="limit", is_step=True)


def _in_alarm(alarms: Sequence[Alarm], series: Series) -> list[Lasting]:
    """When at least one alarm lasted: each from its opening to its end, one that lasts to the end of the chart.

    One that tells of no end is a moment.
    """
    merged: list[Lasting] = []
    for alarm in sorted(alarms, key=lambda one: one.anomaly.received_at):
        began = alarm.anomaly.received_at
        until = alarm.ended_at or (series.until if alarm.anomaly.is_open else began)
        if merged and began <= merged[-1].until:
            merged[-1] = replace(merged[-1], until=max(until, merged[-1].until))
        else:
            merged.append(Lasting(start=began, until=until, words="in alarm", kind="alarm"))
    return merged
