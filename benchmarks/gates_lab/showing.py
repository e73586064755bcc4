"""From courses to the evidence of a look: what the fleet's database would hold of a span, for many rollouts at once."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from fleet.gates.arms import Shown
from gates_lab.worlds import BINS_PER_HOUR, NOTICED_BINS, WINDOWS_PER_BIN, Course

__all__ = ["gather", "join", "show"]

Bins = NDArray[np.int64]


def show(
    course: Course, begin: int, end: int, starts: Bins | None = None, *, counts_silence: bool = False
) -> Shown:
    """What is known at bin `end` of the span from `begin` on; the arrays of the result are (rollouts, devices).

    A message that was sent less than a device's lag before `end` has not come yet. With `starts` (rollouts, devices) the span of
    each device begins so many bins after `begin`. With `counts_silence` a device that is not heard when its span begins fell silent
    just then: what happens while it warms up is not forgotten.
    """
    span = slice(begin, end)
    bins = np.arange(begin, end)
    offset = np.zeros(course.lag.shape, np.int64) if starts is None else starts
    has_begun = bins >= begin + offset[..., None]
    seen = course.heard[..., span] & has_begun & (bins < end - course.lag[..., None])
    judged = (WINDOWS_PER_BIN - course.unjudged[..., span]) * seen
    # a scorer without a window over the threshold is the rule: what was not judged was not over
    over = np.minimum(course.over[..., span], judged)
    event = course.event[..., span] & has_begun
    if counts_silence:
        counts = np.cumsum(course.heard[..., :end], axis=-1, dtype=np.int32)
        at = begin + offset[..., None] - 1
        recent = np.take_along_axis(counts, at, -1) - np.take_along_axis(counts, at - NOTICED_BINS, -1)
        event = event | ((recent == 0) & (bins == at + 1))
    any_event = event.any(axis=-1)
    messages = seen.sum(axis=-1)
    return Shown(
        hours=messages / BINS_PER_HOUR,
        windows=messages * float(WINDOWS_PER_BIN),
        judged=judged.sum(axis=-1, dtype=np.float64),
        over=over.sum(axis=-1, dtype=np.float64),
        log_latency=_mean(course.log_latency[..., span], seen),
        log_drift=_mean(course.log_drift[..., span], seen),
        memory_slope=_slope(course.log_memory[..., span], seen),
        sight=_mean(course.sight[..., span], seen),
        restarts=event.sum(axis=-1, dtype=np.float64),
        first_event_hours=np.where(any_event, (event.argmax(axis=-1) - offset) / BINS_PER_HOUR, np.nan),
        true_alarms=(course.true_alarms[..., span] * seen).sum(axis=-1, dtype=np.float64),
        false_alarms=(course.false_alarms[..., span] * seen).sum(axis=-1, dtype=np.float64),
    )


def join(first: Shown, second: Shown) -> Shown:
    """One after the other, along the devices."""
    return Shown(
        **{
            field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)], axis=-1)
            for field in fields(Shown)
        }
    )


def gather(shown: Shown, rollout: int, devices: slice | Bins = slice(None)) -> Shown:
    """The devices of one rollout, arrays (n,)."""
    return Shown(**{field.name: getattr(shown, field.name)[rollout, devices] for field in fields(Shown)})


def _mean(values: np.ndarray, seen: np.ndarray) -> np.ndarray:  # type: ignore[type-arg] # (.., bins) of any float
    told = seen & ~np.isnan(values)
    count = told.sum(axis=-1)
    total = np.where(told, values, 0).sum(axis=-1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def _slope(values: np.ndarray, seen: np.ndarray) -> np.ndarray:  # type: ignore[type-arg] # (.., bins) of any float
    hours = np.arange(values.shape[-1], dtype=np.float64) / BINS_PER_HOUR
    hours -= hours.mean()
    weights = seen.astype(np.float64)
    count = weights.sum(axis=-1)
    first, second = weights @ hours, weights @ (hours * hours)
    masked = np.where(seen, values, 0).astype(np.float64)
    total, product = masked.sum(axis=-1), masked @ hours
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (count * product - first * total) / (count * second - first * first)
    return np.where(count >= 3, slope, np.nan)
