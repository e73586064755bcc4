"""What n devices showed in a span, as the arrays that gates judge: `fleet.gates.arms.Shown`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fleet.gates.arms import Shown
from fleet.rollouts.spans import Span, Sums
from fleet.storage.verdict_tables import Verdict
from protocol.names import DeviceId

__all__ = ["Told", "as_shown"]

LEAST_SPREAD_S: Final = 60.0
"""Messages closer together than this (standard deviation) say nothing of a slope an hour: an outbox was emptied at once."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """All that is known of devices in their spans.

    Attributes:
        sums: of their messages.
        heard_before: when each was last heard before its span, or known to be there; silence counts from then on. A device that
            is not in it was away already: it cannot fall silent before it has come back.
        heard: when each was last heard in its span, whatever it ran.
        starts: how often each started in its span, and when it first did.
        verdicts: what people said of the anomalies of its span.
    """

    sums: Mapping[DeviceId, Sums]
    heard_before: Mapping[DeviceId, float] = field(default_factory=dict)
    heard: Mapping[DeviceId, float] = field(default_factory=dict)
    starts: Mapping[DeviceId, tuple[int, float]] = field(default_factory=dict)
    verdicts: Mapping[DeviceId, Mapping[Verdict, int]] = field(default_factory=dict)


def as_shown(spans: Sequence[Span], told: Told, offline_after_s: float) -> Shown:
    """One row a span, in its order. `offline_after_s`: the longest time without health that is no silence, seconds."""
    rows = [_row(span, told, offline_after_s) for span in spans]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), len(Shown.__dataclass_fields__)).T
    return Shown(**dict(zip(Shown.__dataclass_fields__, columns, strict=True)))


def _row(span: Span, told: Told, offline_after_s: float) -> tuple[float, ...]:
    """The figures of one device, in the order of the fields of `Shown`."""
    sums = told.sums.get(span.device)
    events, first_event = _events(span, told, offline_after_s)
    verdicts = told.verdicts.get(span.device, {})
    said = (float(verdicts.get(Verdict.TRUE_ALARM, 0)), float(verdicts.get(Verdict.FALSE_ALARM, 0)))
    if sums is None:
        return (0.0, 0.0, 0.0, 0.0, *[math.nan] * 4, events, first_event, *said)
    # agents from before revision 0016 did not tell how long a message covers; and who tells more than there was makes the
    # fleet's past look calmer, and everybody else's span short
    covered_s = min(sums.seconds or sums.last_at - sums.first_at, span.until - span.start)
    return (
        covered_s / 3600,
        sums.windows,
        sums.judged,
        sums.over,
        _mean(sums.latency_sum, sums.latency_count),
        _mean(sums.drift_sum, sums.reports),
        _slope(sums),
        _mean(sums.sight_sum, sums.sight_count),
        events,
        first_event,
        *said,
    )


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan


def _slope(sums: Sums) -> float:
    """Least squares of log memory over hours; NaN where there are fewer than three messages, or all at once."""
    count = sums.memory_count
    if count < 3:
        return math.nan
    spread = sums.memory_tt / count - (sums.memory_t / count) ** 2
    if spread < (LEAST_SPREAD_S / 3600) ** 2:
        return math.nan
    together = sums.memory_ty / count - sums.memory_t / count * sums.memory_y / count
    return together / spread


def _events(span: Span, told: Told, offline_after_s: float) -> tuple[float, float]:
    """Starts and silences of a device in its span, and the hours to the first of them (NaN: none)."""
    sums = told.sums.get(span.device)
    count, moments = 0.0, []
    if sums is not None and sums.silences:
        count += sums.silences
        moments.append(sums.silence_at or sums.first_at)
    if span.device in told.starts:
        starts, first_start = told.starts[span.device]
        count += starts
        moments.append(first_start)
    last_before = told.heard_before.get(span.device)
    first = sums.first_at if sums is not None else told.heard.get(span.device, span.until)
    if last_before is not None and first - last_before > offline_after_s:
        count += 1
        moments.append(last_before + offline_after_s)
    last = max((at for at in (sums and sums.last_at, told.heard.get(span.device)) if at), default=None)
    if last is not None and span.until - last > offline_after_s:
        count += 1
        moments.append(last + offline_after_s)
    return count, max(0.0, min(moments) - span.start) / 3600 if moments else math.nan
