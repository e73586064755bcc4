"""How a device was over time: of each figure the lowest and the highest of some 400 buckets, made by the database.

Short spans are read from the health messages themselves, longer ones from their blocks (`fleet.storage.block_tables`): ten minutes
for a week, an hour for a quarter of a year. So is a day in which a device told more than `MOST_MESSAGES`, up to the messages that are in no
block yet. No message is read into Python. The database looks through what
is in no block yet, too: a minute of messages, and after an upgrade or in an overload all that the roll-up has not reached.

Time is ours, `received_at`: what lay in an outbox stands where it arrived. In a block a figure is the mean that its sums
tell, and a score the highest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Double, Select, and_, case, cast, func, select
from sqlalchemy.orm import Session

from fleet.storage.block_tables import BLOCK_S, HealthBlock, RollUp
from fleet.storage.event_tables import HealthRecord

__all__ = ["BUCKETS", "SPANS", "Reading", "Series", "read_series"]

BUCKETS: Final = 400
"""Two points each: as many as a chart on a wide screen has pixels for."""

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0

SPANS: Final[Mapping[str, float]] = {"1h": HOUR_S, "1d": DAY_S, "7d": 7 * DAY_S, "90d": 90 * DAY_S}
"""What may be looked at, seconds."""

MOST_MESSAGES: Final = 20_000
"""Of one span that are looked through one by one: some 30 ms. Fifty for each bucket, of a device that says something every four seconds."""

_LARGEST_LOG: Final = 700.0
"""exp() of more is no number of a database."""


class Reading(NamedTuple):
    """The lowest and the highest of a bucket; `at` is its middle, Unix seconds."""

    at: float
    low: float
    high: float


@dataclass(kw_only=True)
class Series:
    """Of one device over [start, until], Unix seconds; two readings further apart than `gap_s` have silence between them.

    figures: by name (`score`, `threshold`, `drift`, `latency_us`, `memory_bytes`, `sight`, `unjudged_share`, `over_share`) what was
        read; a name of which nothing was told has no readings. `windows` and `unjudged` are those of the whole span.
    """

    start: float
    until: float
    gap_s: float
    figures: dict[str, list[Reading]] = field(default_factory=dict)
    windows: int = 0
    unjudged: int = 0


def read_series(
    session: Session,
    device: str,
    *,
    start: float,
    until: float,
    offline_after_s: float,
    most_messages: int = MOST_MESSAGES,
) -> Series:
    """What `device` told in [start, until].

    Args:
        session: a snapshot.
        device: its id.
        start: Unix seconds.
        until: Unix seconds; up to a day is read from messages.
        offline_after_s: the longest time between two messages that is no silence, seconds.
        most_messages: that are read from; of more the blocks are.
    """
    width = (until - start) / BUCKETS
    if until - start > DAY_S:
        length_s = BLOCK_S if until - start <= 7 * DAY_S else HOUR_S
        parts, gap_s = [_blocks(device, start, until, width)], 1.5 * length_s
    elif _has_more(session, device, start, until, most_messages):
        fresh = _messages(device, start, until, width).where(*_in_no_block(session, device))
        parts, gap_s = [_blocks(device, start, until, width), fresh], 1.5 * BLOCK_S
    else:
        parts, gap_s = [_messages(device, start, until, width)], offline_after_s
    series = Series(start=start, until=until, gap_s=max(gap_s, 1.6 * width))
    for rows in parts:
        for row in session.execute(rows).mappings():
            _note(series, row)
    return series


def _has_more(session: Session, device: str, start: float, until: float, than: int) -> bool:
    told = select(HealthRecord.id).where(_within(device, start, until)).limit(than + 1).subquery()
    return (session.scalar(select(func.count()).select_from(told)) or 0) > than


def _in_no_block(session: Session, device: str) -> tuple[ColumnElement[bool], ...]:
    """Which messages of a device no block has counted: by their number, and by their time, for which there is an index."""
    done_to = session.scalar(select(RollUp.done_to).where(RollUp.table_name == HealthRecord.__tablename__))
    last_at = session.scalar(select(func.max(HealthBlock.last_at)).where(HealthBlock.device == device))
    return HealthRecord.id > (done_to or 0), HealthRecord.received_at >= (last_at or 0.0) - BLOCK_S


def _within(device: str, start: float, until: float) -> ColumnElement[bool]:
    return and_(HealthRecord.device == device, HealthRecord.received_at.between(start, until))


def _note(series: Series, row: Mapping[Any, Any]) -> None:
    at = (row["first_at"] + row["last_at"]) / 2
    for name in _FIGURES:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if low is not None and math.isfinite(low) and math.isfinite(high):
            series.figures.setdefault(name, []).append(Reading(at, low, high))
    windows, judged, over = (max(row[name] or 0, 0) for name in ("windows", "judged", "over"))
    series.windows += int(windows)
    series.unjudged += int(max(windows - judged, 0))
    if windows:
        share = min(max(windows - judged, 0) / windows, 1.0)
        series.figures.setdefault("unjudged_share", []).append(Reading(at, share, share))
    if judged:
        share = min(over / judged, 1.0)
        series.figures.setdefault("over_share", []).append(Reading(at, share, share))


def _messages(device: str, start: float, until: float, width: float) -> Select[Any]:
    message = HealthRecord
    judged = func.coalesce(message.interval_judged, message.interval_windows)
    # of an interval in which nothing was judged there is no score; an older agent tells no highest one
    mean = case((judged > 0, message.score_mean))
    highest = case((judged > 0, func.coalesce(message.score_max, message.score_mean)))
    figures = {
        "score": (mean, highest),
        "threshold": (message.threshold, message.threshold),
        "drift": _same(message.drift_score),
        "latency_us": _same(case((message.inference_p99_us > 0, message.inference_p99_us))),
        "memory_bytes": _same(case((message.memory_pss_bytes > 0, message.memory_pss_bytes))),
        "sight": _same(message.sight),
    }
    rate = case((message.anomaly_rate < 0, 0.0), (message.anomaly_rate > 1, 1.0), else_=message.anomaly_rate)
    counts = {
        "windows": message.interval_windows,
        "judged": judged,
        "over": rate * judged,
        "first_at": message.received_at,
        "last_at": message.received_at,
    }
    return _in_buckets(figures, counts, message.received_at, (start, width)).where(
        _within(device, start, until)
    )


def _blocks(device: str, start: float, until: float, width: float) -> Select[Any]:
    block = HealthBlock
    figures = {
        "score": _same(block.score_max),
        "threshold": _same(block.threshold_max),
        "drift": _same(_exp(block.drift_sum, block.reports) - 0.01),
        "latency_us": _same(_exp(block.latency_sum, block.latency_count)),
        "memory_bytes": _same(_exp(block.memory_y, block.memory_count)),
        "sight": _same(block.sight_sum / func.nullif(block.sight_count, 0)),
    }
    names = ("windows", "judged", "over", "first_at", "last_at")
    counts = {name: getattr(block, name) for name in names}
    within = and_(block.device == device, block.start.between(int(start) - int(HOUR_S), int(until)))
    is_seen = block.last_at >= start
    return _in_buckets(figures, counts, block.last_at, (start, width)).where(within, is_seen)


def _in_buckets(
    figures: Mapping[str, Sequence[ColumnElement[Any]]],
    counts: Mapping[str, Any],
    at: Any,
    buckets: tuple[float, float],
) -> Select[Any]:
    start, width = buckets
    number = cast(func.floor((at - start) / width), BigInteger)
    columns = [
        column
        for name, (low, high) in figures.items()
        for column in (func.min(low).label(f"{name}_low"), func.max(high).label(f"{name}_high"))
    ]
    # as floating point: a device that counts without bounds must not make a sum overflow
    sums = [_ENDS.get(name, func.sum)(cast(column, Double)).label(name) for name, column in counts.items()]
    return select(*columns, *sums).group_by(number).order_by(number)


def _same(figure: Any) -> tuple[Any, Any]:
    return figure, figure


def _exp(total: Any, count: Any) -> Any:
    """Of a mean of logarithms what it is the mean of."""
    mean = total / func.nullif(count, 0)
    return func.exp(case((mean < _LARGEST_LOG, mean)))


_ENDS: Final[Mapping[str, Callable[[Any], ColumnElement[Any]]]] = {"first_at": func.min, "last_at": func.max}

_FIGURES: Final = ("score", "threshold", "drift", "latency_us", "memory_bytes", "sight")
