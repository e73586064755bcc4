"""Devices: one, those that a query selects, how many there are of which, and the starts of one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Select, and_, case, func, select, true
from sqlalchemy.orm import Session

from fleet.device_commands import OUTSTANDING, find_device
from fleet.device_query import device_filter
from fleet.errors import NotFoundError
from fleet.storage.boot_tables import LATEST_FIRST, Boot, EventRange, IdentityConflict
from fleet.storage.command_tables import CommandRecord, DeviceCommands
from fleet.storage.device_tables import Desired, Device
from fleet.storage.event_tables import LASTS, Anomaly
from fleet.views.commands import CommandView
from fleet.views.devices import BootView, DeviceView
from service.paging import Page, cut_page, decode_cursor, decode_row_cursor

__all__ = ["STANDING", "count_devices", "find_device_view", "list_boots", "list_commands", "list_devices"]

STANDING: Final = {
    "silent": "online==false and state==enrolled",
    "blind": "agent_state==blind and state==enrolled",
    "in alarm": "in_alarm==true",
    "drifted": "drifted==true and state==enrolled",
    "with problems": "problems==* and state==enrolled",
    "waiting": "state==waiting",
}
"""What is asked of devices all day, each as a query that anybody may ask, too."""

_OF_A_BOOT: Final = ("boot_id", "hardware", "agent_version", "first_received", "last_received", "given_up")

_VIEWS: Final = (
    select(
        Device,
        Desired,
        DeviceCommands,
        IdentityConflict,
        select(func.count())
        .where(CommandRecord.device == Device.id, CommandRecord.status.in_(OUTSTANDING))
        .correlate(Device)
        .scalar_subquery(),
        select(func.count()).where(Anomaly.device == Device.id, LASTS).correlate(Device).scalar_subquery(),
    )
    .outerjoin(Desired, Desired.device == Device.id)
    .outerjoin(DeviceCommands, DeviceCommands.device == Device.id)
    .outerjoin(IdentityConflict, IdentityConflict.device == Device.id)
)


def find_device_view(session: Session, device_id: str) -> DeviceView:
    """One device with what it was told; raises NotFoundError."""
    row = session.execute(_VIEWS.where(Device.id == device_id)).first()
    if row is None:
        raise NotFoundError(f"there is no device {device_id[:80]!r}")
    return _view(*row)


def list_devices(
    session: Session,
    query: str,
    *,
    families: Collection[str] | None,
    after: str | None,
    limit: int,
) -> Page[DeviceView]:
    """The devices that `query` selects, by id.

    Args:
        session: a snapshot.
        query: see `fleet.device_query`; empty: every device.
        families: only of these; None: of every one.
        after: cursor of the page before; None: the first page.
        limit: most devices on the page.

    Raises:
        QuerySyntaxError: the query does not parse.
        InvalidQueryError: the cursor is none of this listing.
    """
    rows = _of(_VIEWS, query, families).order_by(Device.id).limit(limit + 1)
    if after:
        rows = rows.where(Device.id > decode_cursor(after))
    views = [_view(*row) for row in session.execute(rows)]
    return cut_page(views, limit, key=lambda view: view.id)


def count_devices(session: Session, query: str, *, families: Collection[str] | None) -> dict[str, int]:
    """How many devices `query` selects, under the empty name, and how many of those each query of `STANDING` selects too."""
    counted = [func.count(), *(func.sum(_one(standing)) for standing in STANDING.values())]
    row = session.execute(_of(select(*counted).select_from(Device), query, families)).one()
    return dict(zip(["", *STANDING], (int(number or 0) for number in row), strict=True))


def list_boots(session: Session, device_id: str, limit: int) -> list[BootView]:
    """The latest `limit` starts of a device in their order, and where events of each are missing."""
    latest = select(Boot).where(Boot.device == device_id).order_by(*LATEST_FIRST).limit(limit)
    boots = session.scalars(latest).all()[::-1]
    held = func.sum(EventRange.last - EventRange.first + 1)
    stored = (
        select(EventRange.boot_id, func.min(EventRange.first), func.max(EventRange.last), held)
        .where(EventRange.device == device_id, EventRange.boot_id.in_([boot.boot_id for boot in boots]))
        .group_by(EventRange.boot_id)
    )
    spans = {boot_id: (first, last, int(many)) for boot_id, first, last, many in session.execute(stored)}
    views = []
    for boot in boots:
        first, last, many = spans.get(boot.boot_id, (0, 0, 1))
        views.append(
            BootView(
                **{name: getattr(boot, name) for name in _OF_A_BOOT},
                number=boot.number or None,
                first=first,
                last=last,
                missing=last - first + 1 - many + boot.given_up,
            )
        )
    return views


def list_commands(session: Session, device_id: str, *, after: str | None, limit: int) -> Page[CommandView]:
    """What a device was told to do and what became of it, newest first; raises NotFoundError where there is no such device."""
    find_device(session, device_id)
    rows = (
        select(CommandRecord)
        .where(CommandRecord.device == device_id)
        .order_by(CommandRecord.number.desc())
        .limit(limit + 1)
    )
    if after:
        rows = rows.where(CommandRecord.number < decode_row_cursor(after))
    views = [CommandView.model_validate(row) for row in session.scalars(rows)]
    return cut_page(views, limit, key=lambda view: str(view.number))


def _of(rows: Select[Any], query: str, families: Collection[str] | None) -> Select[Any]:
    is_theirs = true() if families is None else Device.family.in_(sorted(families))
    return rows.where(and_(device_filter(query), is_theirs))


def _one(query: str) -> Any:
    return case((device_filter(query), 1), else_=0)


def _view(
    device: Device,
    desired: Desired | None,
    word: DeviceCommands | None,
    conflict: IdentityConflict | None,
    outstanding: int | None,
    open_alarms: int | None,
) -> DeviceView:
    told: dict[str, Any] = {
        "desired_release": desired.release if desired else None,
        "desired_counter": desired.counter if desired else None,
        "commands_counter": word.counter if word else None,
        "outstanding_commands": outstanding or 0,
        "open_alarms": open_alarms or 0,
        "identity_conflict": (conflict and conflict.message) or None,
    }
    own = {name: getattr(device, name) for name in DeviceView.model_fields if name not in told}
    return DeviceView(**own, **told)
