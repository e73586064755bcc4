"""The one statement that finds what changed since a place: the latest rows of six tables, each by its own index, and whether alerts did.

However much has happened, it reads at most `AT_ONCE` rows of a table, the latest ones: who was away for long, or watches while
thousands of anomalies come in a second, is told that something was skipped, and holds up nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    Double,
    Integer,
    ScalarSelect,
    Select,
    String,
    bindparam,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from fleet.changes.change import Change, ChangeKind, Marks
from fleet.storage.access_tables import AuditEntry
from fleet.storage.alert_tables import Alert, AlertGroup, AlertReceiver
from fleet.storage.device_tables import Device, DeviceChange
from fleet.storage.event_tables import Anomaly, AnomalyEnd, DriftRecord
from fleet.storage.rollout_tables import RolloutRecord, RolloutTransition
from protocol.limits import MAX_INTEGER

__all__ = ["AT_ONCE", "Batch", "present_marks", "read_changes"]

AT_ONCE: Final = 500

ALARMS: Final = frozenset(
    {"device_limited", "enrolment_refused", "identity_conflict", "message_refused", "precision_drifted"}
)
"""Actions of the audit log that are nobody's doing, and that somebody should look at."""

_ERASED: Final = "device_erased"
"""After it told rows are gone, and SQLite gives the numbers of the last ones once more: to rows that would look told already."""

_NEWEST: Final = "^"
"""Before the letter of a table: the row that says its newest number."""

_TABLES: Final = {
    "t": RolloutTransition,
    "a": Anomaly,
    "e": AnomalyEnd,
    "d": DriftRecord,
    "v": DeviceChange,
    "u": AuditEntry,
}
_COLUMNS: Final[dict[str, Any]] = {
    "at": Double,
    "name": String,
    "what": String,
    "state": String,
    "was": String,
    "group": Integer,
    "reason": String,
    "actor": String,
    "release": String,
    "family": String,
    "score": Double,
    "agent_state": String,
    "online": Integer,
    "drifted": Integer,
}
_KINDS: Final = {
    "t": ChangeKind.ROLLOUT,
    "a": ChangeKind.ANOMALY,
    "e": ChangeKind.ANOMALY,
    "d": ChangeKind.DRIFT,
    "v": ChangeKind.DEVICE,
    "u": ChangeKind.AUDIT,
}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Changes in the order in which they are told, each with the place after it; what was skipped; and the place after all."""

    changes: Sequence[tuple[Marks, Change]]
    skipped: Sequence[ChangeKind]
    marks: Marks


def present_marks(session: Session) -> Marks:
    """The place after everything that is stored."""
    newest = [select(func.max(table.id)).scalar_subquery() for table in _TABLES.values()]  # type: ignore[attr-defined] # each has one
    newest.append(_alerts_changed())
    return Marks(*(number or 0 for number in session.execute(select(*newest)).one()))


def read_changes(session: Session, since: Marks, upto: Marks | None = None) -> Batch:
    """What changed after `since`, and not after `upto` where that is given: in one statement."""
    bounds = {f"since_{table}": getattr(since, table) for table in _TABLES}
    bounds |= {f"upto_{table}": MAX_INTEGER if upto is None else getattr(upto, table) for table in _TABLES}
    found = [row._asdict() for row in session.execute(_statement(), bounds)]
    newest = {row["table_"][1:]: row["id_"] or 0 for row in found if row["table_"].startswith(_NEWEST)}
    # rows that were told are gone
    skipped = [kind for table, kind in _KINDS.items() if getattr(since, table) > newest[table]]
    marks = since
    changes: list[tuple[Marks, Change]] = []
    for table, kind in _KINDS.items():
        rows = sorted((row for row in found if row["table_"] == table), key=lambda row: row["id_"])
        if len(rows) > AT_ONCE:
            rows = rows[-AT_ONCE:]
            skipped += [kind, ChangeKind.ALARM] if kind is ChangeKind.AUDIT else [kind]
        if any(row["what_"] == _ERASED for row in rows):
            skipped += [ChangeKind.ANOMALY, ChangeKind.DRIFT]
        for row in rows:
            marks = marks.moved(table, row["id_"])
            changes.append((marks, _change(kind, row)))
    alerts = newest["g"] if upto is None else upto.g
    if alerts > since.g:
        marks = marks.moved("g", alerts)
        changes.append((marks, Change(kind=ChangeKind.ALERT, at=alerts / 1000)))
    # also past what is not told: what single devices do in a rollout must not be looked through again each time
    marks = Marks(**newest) if upto is None else upto
    return Batch(changes=changes, skipped=list(dict.fromkeys(skipped)), marks=marks)


@cache
def _statement() -> CompoundSelect[Any]:
    """Made once: it is asked every second, and making it costs more than asking it."""
    parts = [
        _rows("t", RolloutTransition)
        .join(RolloutRecord, RolloutRecord.id == RolloutTransition.rollout)
        .where(RolloutTransition.subject != "device"),
        _rows("a", Anomaly),
        _rows("e", AnomalyEnd),
        _rows("d", DriftRecord),
        _rows("v", DeviceChange).join(Device, Device.id == DeviceChange.device),
        _rows("u", AuditEntry),
    ]
    nothing = [cast(null(), kind) for kind in _COLUMNS.values()]
    newest = [
        select(literal(_NEWEST + table), func.max(entity.id), *nothing)  # type: ignore[attr-defined] # each has one
        for table, entity in _TABLES.items()
    ]
    newest.append(select(literal(_NEWEST + "g"), _alerts_changed(), *nothing))
    return union_all(*(select(part.subquery()) for part in parts), *newest)


def _alerts_changed() -> ScalarSelect[Any]:
    """When alerts were last another than before, Unix ms: their rows are changed and not added to. Each part reads a few rows, or one of an index."""
    lasts = AlertGroup.resolved_at.is_(None)
    moments = (
        select(func.max(AlertGroup.joined_at).label("at")).where(lasts),
        select(func.max(AlertGroup.told_at)).where(lasts),
        select(func.max(AlertGroup.reminded_at)).where(lasts),
        select(func.max(AlertGroup.resolved_at)),
        select(func.max(Alert.settled_at)),
        select(func.max(AlertReceiver.delivered_at)),
        select(func.max(AlertReceiver.failing_since)),
    )
    at = func.max(union_all(*moments).subquery().c.at)
    return select(cast(func.coalesce(1000 * at, 0), BigInteger)).scalar_subquery()


def _rows(table: str, entity: Any) -> Select[Any]:
    said = _SAID[table]
    columns = [cast(said.get(name, null()), kind).label(name + "_") for name, kind in _COLUMNS.items()]
    since, upto = (bindparam(f"{end}_{table}", type_=BigInteger) for end in ("since", "upto"))
    return (
        select(literal(table).label("table_"), entity.id.label("id_"), *columns)
        .where(entity.id > since, entity.id <= upto)
        .order_by(entity.id.desc())
        .limit(AT_ONCE + 1)
    )


_SAID: Final[dict[str, dict[str, Any]]] = {
    "t": {
        "at": RolloutTransition.at,
        "name": RolloutTransition.rollout,
        "what": RolloutTransition.subject,
        "state": RolloutTransition.state,
        "was": RolloutTransition.was,
        "group": RolloutTransition.group,
        "reason": RolloutTransition.reason,
        "actor": RolloutTransition.actor,
        "release": RolloutRecord.release,
        "family": RolloutRecord.family,
    },
    "a": {
        "at": Anomaly.received_at,
        "name": Anomaly.device,
        "what": literal("open"),
        "release": Anomaly.release,
        "score": Anomaly.score,
    },
    "e": {
        "at": AnomalyEnd.received_at,
        "name": AnomalyEnd.device,
        "what": literal("ended"),
        "release": AnomalyEnd.release,
        "reason": AnomalyEnd.reason,
        "score": AnomalyEnd.peak_score,
    },
    "d": {
        "at": DriftRecord.received_at,
        "name": DriftRecord.device,
        "state": DriftRecord.state,
        "release": DriftRecord.release,
        "score": DriftRecord.drift_score,
    },
    "v": {
        "at": DeviceChange.at,
        "name": Device.id,
        "state": Device.state,
        "family": Device.family,
        "release": Device.release,
        "agent_state": Device.agent_state,
        "online": cast(Device.online, Integer),
        "drifted": cast(Device.drifted, Integer),
    },
    "u": {
        "at": AuditEntry.at,
        "name": AuditEntry.subject,
        "what": AuditEntry.action,
        "actor": AuditEntry.actor,
    },
}


def _change(kind: ChangeKind, row: dict[str, Any]) -> Change:
    said = {name: row[name + "_"] for name in _COLUMNS if row[name + "_"] is not None}
    for name in ("online", "drifted"):
        if name in said:
            said[name] = bool(said[name])
    if kind is ChangeKind.AUDIT and said["what"] in ALARMS:
        kind = ChangeKind.ALARM
    return Change(kind=kind, **said)
