"""Removes what a device ever sent, in one transaction, and says in the audit log how many rows of what.

Every table with a column `device` or a key of a device, and every table whose rows hang on such rows, loses them, unless
it is named here with what stays and why: a table that is added later is not forgotten. What stays is the fleet's own: that
the device exists, what the fleet told it to run and do, that it was in a rollout; and, while it is enrolled, which
numbers of its events have come, so that nothing that was erased can come a second time. Lines of the audit log stay;
those that a device caused lose what they say.

What the device makes from then on is stored as before while it is enrolled; so is what it had made and not delivered
yet, but for gaps that were closed (`ingest.ranges`): with the events gone, nothing tells which of them had come. Of a
revoked device only its id and its key stay, which keep it out.

Not in the database's pages: SQLite overwrites what is deleted (`secure_delete`), PostgreSQL does at its next VACUUM.
Not in backups, in logs of processes, or in models that learnt from the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    String,
    Table,
    cast,
    delete,
    false,
    null,
    select,
    update,
)
from sqlalchemy.orm import Session

from fleet import alert_places, audit
from fleet.device_commands import OUTSTANDING, find_device
from fleet.retention.health_blocks import count_anew
from fleet.storage.access_tables import AuditEntry
from fleet.storage.alert_tables import Alert
from fleet.storage.boot_tables import Boot, EventRange
from fleet.storage.command_tables import CommandRecord, DeviceCommands
from fleet.storage.device_tables import Desired, Device, DeviceChange, DeviceState
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import (
    DesiredCounter,
    RolloutExecution,
    RolloutGroup,
    RolloutLook,
    RolloutRecord,
    RolloutTransition,
)
from fleet.storage.schema import METADATA

__all__ = ["ERASED", "erase_device"]

ERASED: Final = "(words of a device that was erased)"
"""In the place of a text that a device sent, or that tells a figure of it."""


@dataclass(frozen=True, kw_only=True)
class _Stays:
    """Of a table that keeps rows of a device: which of them go all the same, and what becomes of columns of those that stay."""

    all_but: ColumnElement[bool] = field(default_factory=false)
    emptied: Mapping[str, Any] = field(default_factory=dict)


_OF_ROLLOUTS: Final[Mapping[str, _Stays]] = {
    # the fleet's own record of what it did; with its devices gone, the counts of a rollout would be wrong
    RolloutExecution.__tablename__: _Stays(emptied={"reason": "", "before": null()}),
    RolloutTransition.__tablename__: _Stays(emptied={"reason": ERASED}),
    # that it changed at some time, which this erasure is too
    DeviceChange.__tablename__: _Stays(),
}
_OF_ENROLLED: Final[Mapping[str, _Stays]] = {
    # the fleet's own count and word to a device that goes on
    DesiredCounter.__tablename__: _Stays(),
    Desired.__tablename__: _Stays(),
    DeviceCommands.__tablename__: _Stays(),
    # what was sent before is sent once more where our answer was lost: it shall not come back
    EventRange.__tablename__: _Stays(),
    Boot.__tablename__: _Stays(
        emptied={"hardware": None, "agent_version": None, "closed_to": 0, "given_up": 0}
    ),
    # what is still to be done; what has been done goes
    CommandRecord.__tablename__: _Stays(
        all_but=CommandRecord.status.not_in(OUTSTANDING),
        emptied={"code": "", "reason": "", "report": None, "report_bytes": None},
    ),
}

_KEEPS_OUT: Final = frozenset(
    {"id", "fingerprint", "public_key", "state", "enrolled_at", "enrolled_again_at", "revoked_at"}
)
_LETS_IN: Final = _KEEPS_OUT | {
    *("hardware", "family", "site", "labels", "claim"),
    *("certificate_serial", "certificate_issuer", "certificate_ends_at"),
}
"""Columns of a device that stay: what it is by its claim, as far as that is needed to let it in, or to keep it out."""

_TOLD: Final = (
    RolloutTransition.reason,
    RolloutGroup.reason,
    RolloutLook.answer,
    Release.withdrawn_reason,
    Alert.detail,
)
"""Sentences of the fleet that may name a device and tell a figure of it."""


def erase_device(session: Session, device_id: str, *, actor: str, now: float) -> dict[str, int]:
    """Remove what `device_id` ever sent, with an audit line; once more removes what has come since.

    Args:
        session: the transaction, which holds the fleet's one writer's lock: no event is stored beside it.
        device_id: enrolled or revoked.
        actor: who asks, for the audit log.
        now: Unix seconds.

    Returns:
        How many rows were removed or emptied, by table; the device's own row not counted.

    Raises:
        NotFoundError: there is no such device.
    """
    device = find_device(session, device_id)
    is_enrolled = device.state != DeviceState.REVOKED
    kept = {**_OF_ROLLOUTS, **(_OF_ENROLLED if is_enrolled else {})}
    rows: dict[str, int] = {}
    for table in reversed(METADATA.sorted_tables):
        mine = _of_device(table, device_id)
        if mine is None:
            continue
        stays = kept.get(table.name)
        if stays is None:
            rows[table.name] = _run(session, delete(table).where(mine))
            continue
        rows[table.name] = _run(session, delete(table).where(mine, stays.all_but))
        if stays.emptied:
            rows[table.name] += _run(session, update(table).where(mine).values(**stays.emptied))
    count_anew(session)
    alert_places.count_anew(session)
    rollouts = select(RolloutExecution.rollout).where(RolloutExecution.device == device_id)
    # who holds a rollout in memory reads it anew: what the device reported is gone
    raised = update(RolloutRecord).where(RolloutRecord.id.in_(rollouts))
    _run(session, raised.values(version=RolloutRecord.version + 1))
    said_by = (AuditEntry.actor == f"device:{device_id}") | (
        (AuditEntry.actor == "fleet") & (AuditEntry.subject == device_id)
    )
    rows["audit_log"] = _run(session, update(AuditEntry).where(said_by).values(detail={}, salt=None))
    rows["sentences"] = sum(_unname(session, column, device_id) for column in _TOLD)
    _empty(device, _LETS_IN if is_enrolled else _KEEPS_OUT)
    rows = {name: count for name, count in sorted(rows.items()) if count}
    audit.record(session, at=now, actor=actor, action="device_erased", subject=device_id, rows=rows)
    return rows


def _of_device(table: Table, device_id: str) -> ColumnElement[bool] | None:
    """Which rows of `table` are of the device, by its own column or by what they hang on; None: none can be."""
    if "device" in table.c:
        return table.c.device == device_id
    for key in table.foreign_keys:
        parent = key.column.table
        if parent is Device.__table__:
            return key.parent == device_id
        if (of_parent := _of_device(parent, device_id)) is not None:
            return key.parent.in_(select(key.column).where(of_parent))
    return None


def _unname(session: Session, column: Any, device_id: str) -> int:
    """Empty sentences that name the device: they were made of what it sent."""
    named = re.compile(rf"(?<![\w.-]){re.escape(device_id)}(?![\w-])")
    table = column.class_
    key = table.__table__.primary_key.columns
    found = session.execute(
        select(*key, column).where(cast(column, String).contains(device_id, autoescape=True))
    )
    count = 0
    for *identity, told in found.all():
        if (left := _without(named, told)) != told:
            where = [part == value for part, value in zip(key, identity, strict=True)]
            count += _run(session, update(table).where(*where).values({column: left}))
    return count


def _without(named: re.Pattern[str], told: Any) -> Any:
    """A text, or texts inside lists and objects, with `ERASED` in the place of those that name the device."""
    match told:
        case str():
            return ERASED if named.search(told) else told
        case dict():
            return {key: _without(named, value) for key, value in told.items()}
        case list():
            return [_without(named, value) for value in told]
        case _:
            return told


def _empty(device: Device, kept: frozenset[str]) -> None:
    """The device's own row as that of one that was never heard."""
    for column in Device.__table__.columns:
        if column.name in kept:
            continue
        if column.default is not None and column.default.is_scalar:
            value = column.default.arg
        elif column.nullable:
            value = None
        else:
            value = {} if column.name in {"labels", "reported_labels", "heard"} else ""
        setattr(device, column.name, value)


def _run(session: Session, statement: Any) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    return result.rowcount if isinstance(result, CursorResult) else 0
