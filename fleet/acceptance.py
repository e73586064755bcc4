"""A person says: what these devices set aside is normal, they may learn it.

A device keeps the windows of its alarms apart from those that it learns from. Only a person can know that they were
normal after all (a new product, another season); the fleet notes who said so, and tells the device with a retained
message under a counter that only ever grows.

Invariants: a device's row and its audit line are one transaction. What a person judged a true alarm is not made normal
in passing: a device that has one among the windows meant is held back, unless the caller says that it is meant too. A
verdict alone accepts nothing: it is about one alarm, an acceptance about all that was set aside up to a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.desired import DesiredPublisher, next_counter
from fleet.errors import ConflictError, NotFoundError, UnacceptableError
from fleet.storage.base import Database
from fleet.storage.device_tables import Device, DeviceState, NormalWindows
from fleet.storage.event_tables import Anomaly
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from protocol.messages.kinds import Kind

__all__ = ["Accepted", "Wanted", "accept_normal", "accept_normal_of"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person asks for.

    until_s: windows set aside up to then, Unix seconds by the device's clock; None: up to now.
    include_true_alarms: also where alarms among them were judged true.
    dry_run: change nothing, only say what would happen.
    """

    until_s: float | None = None
    include_true_alarms: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What came of it: `devices` that are told, with how many windows they last said are set aside.

    `held_back` names the others that were meant, each with the id of an alarm that was judged true.
    """

    until_s: float
    devices: tuple[str, ...]
    set_aside_windows: int
    held_back: dict[str, int]


def accept_normal_of(
    database: Database, publisher: DesiredPublisher, device: str, wanted: Wanted, *, actor: str, now: float
) -> Accepted:
    """Accept what one device set aside; the arguments and the other errors are those of `accept_normal`.

    Raises:
        NotFoundError: there is no such device.
        ConflictError: it was shut out, or an alarm among the windows was judged true.
    """
    with database.read() as session:
        row = session.get(Device, device)
        if row is None:
            raise NotFoundError(f"there is no device {device[:80]!r}")
        if row.state == DeviceState.REVOKED:
            raise ConflictError(f"device {device!r} is revoked: nobody can tell it anything")
    accepted = accept_normal(database, publisher, Device.id == device, wanted, actor=actor, now=now)
    if device in accepted.held_back:
        raise ConflictError(
            f"anomaly {accepted.held_back[device]} of device {device!r} was judged a true alarm, and its windows are among"
            " those set aside; correct the verdict, name an earlier until_s, or set include_true_alarms"
        )
    return accepted


def accept_normal(
    database: Database,
    publisher: DesiredPublisher,
    meant: ColumnElement[bool],
    wanted: Wanted,
    *,
    actor: str,
    now: float,
) -> Accepted:
    """Accept what the enrolled devices that `meant` selects set aside, durably; they are told after the commit.

    Args:
        database: the fleet's.
        publisher: tells the devices.
        meant: a condition on `Device`.
        wanted: which of their windows.
        actor: who says so, as the audit log names them.
        now: Unix seconds.

    Raises:
        UnacceptableError: `until_s` lies ahead: nobody can know what will be normal.
    """
    until_s = now if wanted.until_s is None else wanted.until_s
    if until_s > now:
        raise UnacceptableError(
            f"until_s {until_s:.0f} lies {until_s - now:.0f} s ahead; only what was seen can be called normal: at most {now:.0f}"
        )
    with database.read() if wanted.dry_run else database.write() as session:
        chosen = meant & (Device.state == DeviceState.ENROLLED)
        found = session.execute(
            select(Device.id, Device.last_health).where(chosen).order_by(Device.id)
        ).tuples()
        set_aside = {name: (health or {}).get("set_aside_windows") or 0 for name, health in found}
        held_back = {} if wanted.include_true_alarms else _true_alarms(session, chosen, until_s)
        devices = tuple(name for name in set_aside if name not in held_back)
        if not wanted.dry_run:
            _note(session, chosen, devices, until_s, actor=actor, now=now)
    if not wanted.dry_run:
        publisher.announce(devices, Kind.NORMAL)
    return Accepted(
        until_s=until_s,
        devices=devices,
        set_aside_windows=sum(set_aside[name] for name in devices),
        held_back=held_back,
    )


def _true_alarms(session: Session, chosen: ColumnElement[bool], until_s: float) -> dict[str, int]:
    """Devices with an alarm that was judged true and is not accepted yet, with the latest such anomaly."""
    rows = session.execute(
        select(Anomaly.device, func.max(Anomaly.id))
        .join(VerdictRecord, VerdictRecord.anomaly == Anomaly.id)
        .join(Device, Device.id == Anomaly.device)
        .outerjoin(NormalWindows, NormalWindows.device == Anomaly.device)
        .where(
            chosen,
            VerdictRecord.verdict == Verdict.TRUE_ALARM,
            Anomaly.sent_at <= until_s,
            Anomaly.sent_at > func.coalesce(NormalWindows.until_s, 0.0),
        )
        .group_by(Anomaly.device)
    )
    return dict(rows.tuples().all())


def _note(
    session: Session,
    chosen: ColumnElement[bool],
    devices: tuple[str, ...],
    until_s: float,
    *,
    actor: str,
    now: float,
) -> None:
    """Write the row and the audit line of each of `devices`, all of which are among the `chosen`."""
    rows = select(NormalWindows).join(Device, Device.id == NormalWindows.device).where(chosen)
    known = {row.device: row for row in session.scalars(rows)}
    for device in devices:
        row = known.get(device)
        if row is None:
            row = NormalWindows(device=device, counter=0, until_s=until_s)
            session.add(row)
        row.counter = next_counter(row.counter, now)
        # never less: a device that was away hears of the last acceptance alone, and no earlier one is unsaid
        row.until_s = max(row.until_s, until_s)
        row.accepted_by, row.accepted_at = actor, now
        audit.record(
            session,
            at=now,
            actor=actor,
            action="normal_accepted",
            subject=device,
            until_s=until_s,
            counter=row.counter,
        )
