"""From judges to figures: one JSON object for each set, method, metric and seed.

    AP, AUC, VUS-PR               window scores; mean over the devices whose test holds both kinds of rows, its standard error over devices
    AP, timed                     the same of what the device holds against its threshold
    F1, false alarms              rows of timed scores over the device's own threshold, mean over devices; J, FAR, MAR: rows pooled
    openings, r = …               alarms per 1000 later healthy windows, within the stated horizon and beyond it; bound: the promise
    time in alarm, r = …          share of those windows; provisional, r = …: share of devices that said so beforehand
    events seen, delay            labelled events during which an alarm is open, of how many; median windows from an event's begin to that
    events opened                 those that opened an alarm of their own: one that was open before tells nobody anything
    events at 1 in 1000           events seen where one factor on all thresholds gives 1 opening in 1000 later healthy windows

Where the test is empty of anomalies a device is left out of the ranking figures, and counted in ``left_out``. A figure that nothing is known of
has the value null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from learning_tables.pronostia_bearings import area_under_curve
from learning_tables.skab_recordings import confusion
from learning_tables.skab_recordings import figures as pooled_figures
from numpy.typing import NDArray

from detection_tables.alarms import find_alarms
from detection_tables.devices import Device
from detection_tables.methods import Judge, Method, Promised, Scorer
from detection_tables.promises import Kept, common_factor, count_kept, poisson_interval
from detection_tables.ranking import average_precision, events_of, f1
from detection_tables.volume import default_buffer, volume_under_surface

__all__ = ["PROMISES", "Figure", "measure"]

Floats = NDArray[np.floating]

PROMISES: Final = (1e-3, 2e-4)
"""Openings a window; the first is the one under which F1 and events are counted."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure; `is_random` tells whether another seed could give another, `details` are further members of its JSON object."""

    set: str
    method: str
    metric: str
    value: float | None
    unit: str = "share"
    seed: int = 0
    is_random: bool = False
    details: dict[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line."""
        line = {
            "name": f"detection: {self.set}: {self.method}: {self.metric}",
            "set": self.set,
            "method": self.method,
            "metric": self.metric,
            "value": _rounded(self.value),
            "unit": self.unit,
            "seed": self.seed,
            "is_random": self.is_random,
            **{name: _rounded(value) for name, value in self.details.items()},
        }
        return json.dumps(line, ensure_ascii=False)


def measure(
    name: str, method: Method, devices: Sequence[Device], promised: Promised, seed: int
) -> list[Figure]:
    """All figures of a fitted method on the set of that name."""
    results = _Results(devices)
    figures: list[Figure] = []

    def add(metric: str, value: float | None, unit: str = "share", **details: object) -> None:
        figures.append(
            Figure(
                set=name,
                method=method.name,
                metric=metric,
                value=value,
                unit=unit,
                seed=seed,
                is_random=method.is_random,
                details=details,
            )
        )

    judges = promised(PROMISES[0])
    _add_ranking(add, devices, results, judges)
    _add_decisions(add, devices, results, judges)
    for promise in PROMISES:
        _add_promise(add, results, promised(promise), promise)
    _add_events(add, devices, results, judges)
    return figures


class _Results:
    """Scores of all devices, each computed once for a scorer."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = devices
        self._known: dict[tuple[int, int, str], tuple[Scorer, Floats]] = {}

    def window_test(self, judges: Sequence[Judge]) -> list[Floats]:
        return self._each(judges, "window_scores", "test")

    def timed_test(self, judges: Sequence[Judge]) -> list[Floats]:
        return self._each(judges, "timed_scores", "test")

    def timed_later(self, judges: Sequence[Judge]) -> list[Floats]:
        return self._each(judges, "timed_scores", "later")

    def _each(self, judges: Sequence[Judge], kind: str, part: str) -> list[Floats]:
        scores = []
        for place, (judge, device) in enumerate(zip(judges, self._devices, strict=True)):
            scorer, rows = judge.scorer, device.test if part == "test" else device.later
            way = kind if scorer.is_timed else "window_scores"
            key = (id(scorer), place, f"{way} {part}")
            if key not in self._known:
                score = scorer.timed_scores if way == "timed_scores" else scorer.window_scores
                starts, first = ((0,), len(device.healthy))
                if part == "test":
                    starts, first = device.starts, first + len(device.later)
                values = score(rows, starts, first) if len(rows) else np.zeros(0)
                # The scorer is kept beside them: an id is one's own only while its object lives.
                self._known[key] = scorer, np.asarray(values, np.float64)
            scores.append(self._known[key][1])
        return scores


Add = Callable[..., None]


def _add_ranking(add: Add, devices: Sequence[Device], results: _Results, judges: Sequence[Judge]) -> None:
    window, timed = results.window_test(judges), results.timed_test(judges)
    ranked = [place for place, device in enumerate(devices) if device.has_both]
    left_out = len(devices) - len(ranked)

    def mean(metric: str, of: Callable[[Device, Floats], float], scores: Sequence[Floats]) -> None:
        values = [of(devices[place], scores[place]) for place in ranked]
        details = {"standard_error": _standard_error(values), "left_out": left_out, "per_device": values}
        add(metric, float(np.mean(values)) if values else None, **details)

    mean("AP", lambda d, s: average_precision(d.labels, s), window)
    mean("AP, timed", lambda d, s: average_precision(d.labels, s), timed)
    mean("AUC", lambda d, s: area_under_curve(s[~d.labels], s[d.labels]), window)
    mean(
        "VUS-PR",
        lambda d, s: volume_under_surface(d.labels, s, default_buffer(len(s)), starts=d.starts),
        window,
    )


def _add_decisions(add: Add, devices: Sequence[Device], results: _Results, judges: Sequence[Judge]) -> None:
    over = [~(s <= judge.threshold) for s, judge in zip(results.timed_test(judges), judges, strict=True)]
    ranked = [
        (device.labels, alarms) for device, alarms in zip(devices, over, strict=True) if device.has_both
    ]
    add("F1", float(np.mean([f1(labels, alarms) for labels, alarms in ranked])) if ranked else None)
    quiet = [
        (~device.labels, alarms)
        for device, alarms in zip(devices, over, strict=True)
        if not device.labels.all()
    ]
    rates = [float(alarms[healthy].mean()) for healthy, alarms in quiet]
    add("false alarms", float(np.mean(rates)) if rates else None, standard_error=_standard_error(rates))
    counts = np.array(
        [confusion(alarms, device.labels) for device, alarms in zip(devices, over, strict=True)]
    )
    pooled = pooled_figures(counts.sum(axis=0)) if ranked else {}
    # Leaving one device out at a time: J is no mean over devices.
    others = [pooled_figures(counts.sum(axis=0) - one)["J"] for one in counts] if len(ranked) > 2 else []
    add("J", pooled.pop("J", None), standard_error=_standard_error(others, len(others) - 1), **pooled)


def _add_promise(add: Add, results: _Results, judges: Sequence[Judge], promise: float) -> None:
    within, beyond = _count_all(judges, results.timed_later(judges))
    r = f"r = {1000 * promise:g}"
    _add_kept(add, f"{r}, within the horizon", within, promise)
    _add_kept(add, f"{r}, beyond it", beyond, promise)
    provisional = [judge.is_provisional for judge in judges]
    supported = next((judge.supported for judge in judges if judge.supported), "")
    add(f"provisional, {r}", float(np.mean(provisional)), supported=supported)


def _count_all(judges: Sequence[Judge], later: Sequence[Floats]) -> tuple[list[Kept], list[Kept]]:
    counts = [count_kept(judge, scores) for judge, scores in zip(judges, later, strict=True)]
    return [within for within, _ in counts], [beyond for _, beyond in counts]


def _add_kept(add: Add, what: str, parts: Sequence[Kept], promise: float) -> None:
    kept = sum(parts, Kept())

    def share(count: float) -> float | None:
        return count / kept.windows if kept.windows else None

    low, high = (share(1000 * end) for end in poisson_interval(kept.openings))
    rate = share(1000 * kept.openings)
    add(
        f"openings, {what}",
        rate,
        "per 1000 windows",
        lowest=low,
        highest=high,
        bound=1000 * promise,
        ratio=None if rate is None else rate / (1000 * promise),
        openings=kept.openings,
        most_by_one_device=max(part.openings for part in parts),
        windows=kept.windows,
        promised_openings=promise * kept.windows,
    )
    add(f"time in alarm, {what}", share(kept.open_windows), windows=kept.windows)


def _add_events(add: Add, devices: Sequence[Device], results: _Results, judges: Sequence[Judge]) -> None:
    scores = results.timed_test(judges)
    total = sum(len(events_of(device.labels, device.starts)) for device in devices)
    seen, opened, delays = _count_events(devices, judges, scores)
    add("events seen", float(seen), "events", of=total)
    add("events opened", float(opened), "events", of=total)
    add("delay", float(np.median(delays)) if delays else None, "windows", events=seen)
    later = results.timed_later(judges)
    factor = common_factor(judges, later, PROMISES[0])
    if factor is None:
        add("events at 1 in 1000", None, "events", of=total)
        return
    moved = [replace(judge, threshold=factor * judge.threshold, horizon=None) for judge in judges]
    seen, opened, _ = _count_events(devices, moved, scores)
    kept = sum(_count_all(moved, later)[0], Kept())
    details = {
        "of": total,
        "opened": opened,
        "factor": factor,
        "openings": kept.openings,
        "windows": kept.windows,
    }
    add(
        "events at 1 in 1000",
        float(seen),
        "events",
        **details,
        time_in_alarm=kept.open_windows / kept.windows,
    )


def _count_events(
    devices: Sequence[Device], judges: Sequence[Judge], scores: Sequence[Floats]
) -> tuple[int, int, list[int]]:
    """(events during which an alarm is open, events that open one, windows from begin to alarm of the former)."""
    opened = 0
    delays: list[int] = []
    for device, judge, values in zip(devices, judges, scores, strict=True):
        alarms = find_alarms(values, judge.threshold, judge.rule, starts=device.starts)
        for event in events_of(device.labels, device.starts):
            inside = np.flatnonzero(alarms.is_open[event.first : event.end])
            delays += inside[:1].tolist()
            first, end = np.searchsorted(alarms.openings, (event.first, event.end))
            opened += int(end > first)
    return len(delays), opened, delays


def _standard_error(values: Sequence[float], repeats: float = 1.0) -> float | None:
    """Of the mean of values; of a jackknife with as many `repeats` as there are other values. None where nothing is known of it."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) * repeats if len(values) > 1 else None


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_rounded(one) for one in value]
    return value
