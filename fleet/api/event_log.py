"""``GET /v1/event-log``: what devices reported, oldest first, by a cursor that survives everything.

A cursor is the last number read of each table. Writers of the database take turns, so numbers are given in the order in which
what they are of becomes visible: nothing ever appears before a place that was given out. What was pruned before it was read is gone.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session, lazyload

from fleet.api.dependencies import Services, get_services
from fleet.storage.event_tables import Anomaly, AnomalyEnd, DriftRecord, InstallRecord
from fleet.views.event_log import EventLogPage, LoggedEvent, LoggedKind
from service.access import require
from service.paging import After, Limit, decode_cursor, encode_cursor, unknown_cursor
from service.roles import Caller, Role

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["observations"])

Reports = type[Anomaly] | type[AnomalyEnd] | type[DriftRecord] | type[InstallRecord]
TABLES: Final[dict[LoggedKind, Reports]] = {
    LoggedKind.ANOMALY: Anomaly,
    LoggedKind.ANOMALY_END: AnomalyEnd,
    LoggedKind.DRIFT: DriftRecord,
    LoggedKind.INSTALL: InstallRecord,
}
_PLACE: Final = re.compile(r"a(\d{1,18})\.e(\d{1,18})\.d(\d{1,18})\.i(\d{1,18})")
_ENVELOPE: Final = frozenset({"id", "device", "boot_id", "sequence", "sent_at", "received_at"})
_LEFT_OUT: Final = frozenset({"window", "is_open", "is_judged"})
"""A window is one call; the others are what the fleet knows, and not what was reported."""

Place = dict[LoggedKind, int]


@router.get("/event-log")
def read_event_log(
    _caller: Annotated[Caller, Depends(require(Role.VIEWER))],
    services: Annotated[Services, Depends(get_services)],
    after: After = None,
    limit: Limit = 100,
) -> EventLogPage:
    """Anomalies, their ends, drift reports and reports of installations, each once, in the order in which they were stored.

    For whoever carries them on: `next_cursor` is always there, and is where to go on when there is more. Without `after`, from the
    oldest that is kept. Windows are one call each (``/v1/anomalies/{id}``).
    """
    place = _decode(after)
    with services.database.read() as session:
        waiting = {kind: _rows(session, kind, place[kind], limit) for kind in TABLES}
    more = any(len(rows) > limit for rows in waiting.values())
    events: list[LoggedEvent] = []
    while len(events) < limit and any(waiting.values()):
        # of each table in its own order; between them the one that came first
        kind = min((kind for kind in waiting if waiting[kind]), key=lambda one: waiting[one][0].received_at)
        row = waiting[kind].pop(0)
        place[kind] = row.id
        events.append(_event(kind, row))
    text = f"a{place[LoggedKind.ANOMALY]}.e{place[LoggedKind.ANOMALY_END]}.d{place[LoggedKind.DRIFT]}.i{place[LoggedKind.INSTALL]}"
    return EventLogPage(items=events, next_cursor=encode_cursor(text), more=more or any(waiting.values()))


def _rows(session: Session, kind: LoggedKind, after: int, limit: int) -> list[Any]:
    table = TABLES[kind]
    rows = select(table).where(table.id > after).order_by(table.id).limit(limit + 1)
    if table is Anomaly:
        rows = rows.options(lazyload(Anomaly.end))  # an event of its own
    return list(session.scalars(rows))


def _event(kind: LoggedKind, row: Any) -> LoggedEvent:
    said = {name: getattr(row, name) for name in inspect(type(row)).columns.keys()}  # noqa: SIM118 - not a mapping
    return LoggedEvent(
        kind=kind,
        id=f"{row.device}/{row.boot_id}/{row.sequence}",
        device=row.device,
        sent_at=row.sent_at,
        received_at=row.received_at,
        data={name: value for name, value in said.items() if name not in _ENVELOPE | _LEFT_OUT},
    )


def _decode(cursor: str | None) -> Place:
    if cursor is None:
        return dict.fromkeys(TABLES, 0)
    match = _PLACE.fullmatch(decode_cursor(cursor))
    if match is None:
        raise unknown_cursor(cursor)
    return dict(zip(TABLES, map(int, match.groups()), strict=True))
