"""What devices showed in a span of time: sums that the database makes, one row a device.

Two sources say the same: the messages themselves, and their blocks of ten minutes (`fleet.storage.block_tables`), which are
kept for months and are twenty times fewer. Nothing here reads a message into Python.

Of time there is only ours, `received_at`. What a device said in which order is asked where it matters: after a commit comes
what is later in its stream, (boot, sequence), whenever it arrived.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    Select,
    String,
    and_,
    case,
    cast,
    column,
    func,
    literal_column,
    select,
    text,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from fleet.storage.block_tables import MOST_DRIFT, MOST_SECONDS, MOST_WINDOWS, HealthBlock
from fleet.storage.boot_tables import Boot, Position, position_columns, with_boots
from fleet.storage.event_tables import Anomaly, HealthRecord
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from protocol.names import DeviceId

__all__ = [
    "Span",
    "Sums",
    "joined",
    "read_blocks",
    "read_last_heard",
    "read_messages",
    "read_starts",
    "read_verdicts",
]

_Figure = ColumnElement[Any] | InstrumentedAttribute[Any]

_ANYWHERE: Final = Position(-(2**62), 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Span:
    """[start, until) of one device, Unix seconds by our clock; `after` is where in its stream it begins, None: anywhere."""

    device: DeviceId
    start: float
    until: float
    after: Position | None = None


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Of one device in its span, as in `HealthBlock`; `memory_t` counts hours from the start of the span."""

    reports: float
    seconds: float
    windows: float
    judged: float
    over: float
    latency_count: float
    latency_sum: float
    drift_sum: float
    memory_count: float
    memory_t: float
    memory_tt: float
    memory_y: float
    memory_ty: float
    sight_count: float
    sight_sum: float
    silences: float
    silence_at: float | None
    first_at: float
    last_at: float


_FIRST: Final[dict[str, Callable[[Any], ColumnElement[Any]]]] = {
    "first_at": func.min,
    "last_at": func.max,
    "silence_at": func.min,
}


def read_messages(
    session: Session,
    spans: Sequence[Span],
    *,
    release: str,
    is_on: bool,
    offline_after_s: float,
    goes_on: bool = False,
) -> dict[DeviceId, Sums]:
    """Sums over the messages of each device in its span; a device of which none counts is absent.

    Args:
        session: a snapshot.
        spans: one a device.
        release: the one that is judged.
        is_on: whether messages on `release` count, or those on any other.
        offline_after_s: the longest time between two messages that is no silence, seconds.
        goes_on: what was before the spans counts too, and is added: so does a message whose interval began before.
    """
    span = _table(session, spans)
    query = _weigh_messages(span, offline_after_s).where(
        _is_release(HealthRecord.release, release, is_on=is_on)
    )
    if not goes_on:
        interval_s = _within(func.coalesce(HealthRecord.interval_s, 0.0), MOST_SECONDS)
        query = query.where(HealthRecord.received_at - interval_s >= span.c.start)
    if any(one.after for one in spans):
        place = tuple_(*(span.c[name] for name in Position._fields))
        query = with_boots(query, HealthRecord).where(tuple_(*position_columns(HealthRecord)) > place)
    return _add_up(session, query)


def _weigh_messages(span: CTE, offline_after_s: float) -> Select[Any]:
    """Of each message, what it adds to the sums of the same name."""
    message = HealthRecord
    # what a device says without bounds must not make a sum overflow: it would end the look for all
    windows = _within(message.interval_windows, MOST_WINDOWS)
    judged = _within(func.coalesce(message.interval_judged, message.interval_windows), MOST_WINDOWS)
    hours = (message.received_at - span.c.start) / 3600.0
    has_memory, has_latency = message.memory_pss_bytes > 0, and_(judged > 0, message.inference_p99_us > 0)
    size = func.ln(cast(message.memory_pss_bytes, Double))
    gap = message.received_at - func.lag(message.received_at).over(
        partition_by=message.device, order_by=message.received_at
    )
    return select(
        message.device.label("device"),
        literal_column("1.0").label("reports"),
        _within(func.coalesce(message.interval_s, 0.0), MOST_SECONDS).label("seconds"),
        windows.label("windows"),
        judged.label("judged"),
        (_within(message.anomaly_rate, 1.0) * judged).label("over"),
        case((has_latency, 1.0), else_=0.0).label("latency_count"),
        case((has_latency, func.ln(message.inference_p99_us)), else_=0.0).label("latency_sum"),
        func.ln(_within(message.drift_score, MOST_DRIFT) + 0.01).label("drift_sum"),
        case((has_memory, 1.0), else_=0.0).label("memory_count"),
        case((has_memory, hours), else_=0.0).label("memory_t"),
        case((has_memory, hours * hours), else_=0.0).label("memory_tt"),
        case((has_memory, size), else_=0.0).label("memory_y"),
        case((has_memory, size * hours), else_=0.0).label("memory_ty"),
        case((message.sight.is_not(None), 1.0), else_=0.0).label("sight_count"),
        func.coalesce(message.sight, 0.0).label("sight_sum"),
        case((gap > offline_after_s, 1.0), else_=0.0).label("silences"),
        case((gap > offline_after_s, message.received_at - gap + offline_after_s)).label("silence_at"),
        message.received_at.label("first_at"),
        message.received_at.label("last_at"),
    ).join(span, _covers(span, message.device, message.received_at))


def read_blocks(
    session: Session, spans: Sequence[Span], *, release: str, is_on: bool, offline_after_s: float
) -> dict[DeviceId, Sums]:
    """Sums over the blocks of each device that begin in its span; `Span.after` is not asked. Arguments as `read_messages`."""
    block, span = HealthBlock, _table(session, spans)
    # the sums of a block count hours from its own start
    shift = (block.start - span.c.start) / 3600.0
    before = func.lag(block.last_at).over(partition_by=block.device, order_by=block.first_at)
    is_silence = block.first_at - before > offline_after_s
    changed = {
        "memory_t": block.memory_t + block.memory_count * shift,
        "memory_tt": block.memory_tt + 2 * shift * block.memory_t + block.memory_count * shift * shift,
        "memory_ty": block.memory_ty + shift * block.memory_y,
        "silences": block.silences + case((is_silence, 1.0), else_=0.0),
        "silence_at": func.coalesce(case((is_silence, before + offline_after_s)), block.silence_at),
    }
    columns = [
        cast(changed.get(name, getattr(block, name)), Double).label(name) for name in Sums.__annotations__
    ]
    query = select(block.device, *columns).join(span, _covers(span, block.device, block.start))
    return _add_up(session, query.where(_is_release(block.release, release, is_on=is_on)))


def joined(earlier: Sums, later: Sums, hours: float, offline_after_s: float) -> Sums:
    """One of two spans of a device; the later one began `hours` after the earlier. What was quiet between them counts."""
    is_silence = later.first_at - earlier.last_at > offline_after_s
    sums = {
        name: getattr(earlier, name) + getattr(later, name)
        for name in Sums.__annotations__
        if name not in _FIRST
    }
    moments = [
        earlier.silence_at,
        earlier.last_at + offline_after_s if is_silence else None,
        later.silence_at,
    ]
    return Sums(
        **sums
        | {
            "memory_t": earlier.memory_t + later.memory_t + later.memory_count * hours,
            "memory_tt": earlier.memory_tt
            + later.memory_tt
            + 2 * hours * later.memory_t
            + later.memory_count * hours * hours,
            "memory_ty": earlier.memory_ty + later.memory_ty + hours * later.memory_y,
            "silences": sums["silences"] + is_silence,
            "silence_at": next((at for at in moments if at is not None), None),
            "first_at": earlier.first_at,
            "last_at": later.last_at,
        }
    )


def read_last_heard(session: Session, spans: Sequence[Span]) -> dict[DeviceId, float]:
    """When the last message of each device in its span arrived, whatever it ran; a device that said nothing is absent."""
    span, heard = _table(session, spans), HealthRecord.received_at
    query = select(span.c.device, func.max(heard)).join(span, _covers(span, HealthRecord.device, heard))
    return {DeviceId(device): at for device, at in session.execute(query.group_by(span.c.device))}


def read_starts(session: Session, spans: Sequence[Span]) -> dict[DeviceId, tuple[int, float]]:
    """How often each device started in its span, and when it first did; one that did not is absent."""
    span, began = _table(session, spans), Boot.first_received
    query = select(span.c.device, func.count(), func.min(began))
    query = query.join(span, _covers(span, Boot.device, began)).group_by(span.c.device)
    return {DeviceId(device): (count, at) for device, count, at in session.execute(query)}


def read_verdicts(session: Session, spans: Sequence[Span], family: str) -> dict[DeviceId, dict[Verdict, int]]:
    """How often people called anomalies of each device in its span true, and false; of those where they said anything."""
    span = _table(session, spans)
    query = (
        select(span.c.device, VerdictRecord.verdict, func.count())
        .join(Anomaly, Anomaly.id == VerdictRecord.anomaly)
        .join(span, _covers(span, Anomaly.device, Anomaly.received_at))
        # nobody judges what has not come yet
        .where(
            VerdictRecord.family == family,
            VerdictRecord.first_given_at >= min((one.start for one in spans), default=0.0),
        )
        .group_by(span.c.device, VerdictRecord.verdict)
    )
    found: dict[DeviceId, dict[Verdict, int]] = {}
    for device, verdict, count in session.execute(query):
        found.setdefault(DeviceId(device), {})[Verdict(verdict)] = count
    return found


def _add_up(session: Session, weighed: Select[Any]) -> dict[DeviceId, Sums]:
    rows = weighed.subquery()
    sums = [_FIRST.get(name, func.sum)(rows.c[name]).label(name) for name in Sums.__annotations__]
    query = select(rows.c.device, *sums).group_by(rows.c.device)
    return {
        # PostgreSQL adds some up as decimals
        DeviceId(device): Sums(
            **{name: one and float(one) for name, one in zip(Sums.__annotations__, figures, strict=True)}
        )
        for device, *figures in session.execute(query)
    }


_TABLES: Final = {
    # one parameter, however many spans: as many parameters as values would take seconds to compile
    "sqlite": """SELECT json_extract(value, '$[0]') AS device, json_extract(value, '$[1]') AS start,
        json_extract(value, '$[2]') AS until, json_extract(value, '$[3]') AS era, json_extract(value, '$[4]') AS counted,
        json_extract(value, '$[5]') AS turn, json_extract(value, '$[6]') AS sequence FROM json_each(:spans)""",
    "postgresql": """SELECT value->>0 AS device, (value->>1)::float8 AS start, (value->>2)::float8 AS until,
        (value->>3)::bigint AS era, (value->>4)::bigint AS counted, (value->>5)::bigint AS turn,
        (value->>6)::bigint AS sequence FROM jsonb_array_elements(CAST(:spans AS jsonb))""",
}


def _table(session: Session, spans: Sequence[Span]) -> CTE:
    """The spans as a table that a query can join."""
    rows = [[one.device, one.start, one.until, *(one.after or _ANYWHERE)] for one in spans]
    return (
        text(_TABLES[session.get_bind().dialect.name])
        .bindparams(spans=json.dumps(rows))
        .columns(
            column("device", String),
            column("start", Double),
            column("until", Double),
            *(column(name, BigInteger) for name in Position._fields),
        )
        .cte("span")
    )


def _covers(span: CTE, device: _Figure, at: _Figure) -> ColumnElement[bool]:
    return and_(device == span.c.device, at >= span.c.start, at < span.c.until)


def _within(told: _Figure, most: float) -> ColumnElement[float]:
    """A figure, at least 0 and at most `most`."""
    return case((told > most, most), (told > 0, cast(told, Double)), else_=0.0)


def _is_release(told: _Figure, release: str, *, is_on: bool) -> ColumnElement[bool]:
    # a device that runs nothing shows nothing of what ran before
    return told == release if is_on else func.coalesce(told, "").not_in(["", release])
