"""A person says: what these devices set aside is normal, they may learn it.

A device keeps the windows of its alarms apart from those that it learns from. Only a person can know that they were
normal after all (a new product, another season); the fleet notes who said so, and tells the device by a command
(`fleet.device_commands`).

Invariants: the command and its audit line are one transaction. What a person judged a true alarm is not made normal
in passing: a device that has one among the windows meant is held back, unless the caller says that it is meant too. A
verdict alone accepts nothing: it is about one alarm, an acceptance about all that was set aside up to a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from fleet.desired import DesiredPublisher
from fleet.device_commands import Order, batched, check_reachable, give_commands
from fleet.errors import ConflictError, UnacceptableError
from fleet.storage.base import Database
from fleet.storage.command_tables import CommandRecord
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import Anomaly
from fleet.storage.verdict_tables import Verdict, VerdictRecord
from protocol.messages.kinds import CommandAction, CommandStatus, Kind

__all__ = ["Accepted", "Wanted", "accept_normal", "accept_normal_of"]

KEPT_FOR_S: Final = 90 * 86400.0
"""How long a device may be away and still hear of it: what was normal a season ago may not be today."""
_UNSAID: Final = (
    CommandStatus.CANCELED,
    CommandStatus.EXPIRED,
    CommandStatus.REFUSED,
    CommandStatus.FAILED,
    CommandStatus.SUPERSEDED,
)
"""Acceptances that made nothing normal; what a superseded one said stands in the one that took its place."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a person asks for.

    until_s: windows set aside up to then, Unix seconds by the device's clock; None: up to now.
    include_true_alarms: also where alarms among them were judged true.
    dry_run: change nothing, only say what would happen.
    request_key: the idempotency key it was asked under, hashed.
    """

    until_s: float | None = None
    include_true_alarms: bool = False
    dry_run: bool = False
    request_key: str | None = None


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
        check_reachable(session, device)
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
        found = session.execute(select(Device.id, Device.last_health).where(chosen).order_by(Device.id))
        set_aside = {name: (health or {}).get("set_aside_windows") or 0 for name, health in found}
        held_back = {} if wanted.include_true_alarms else _true_alarms(session, chosen, until_s)
        devices = tuple(name for name in set_aside if name not in held_back)
        if not wanted.dry_run:
            order = Order(
                action=CommandAction.ACCEPT_AS_NORMAL,
                arguments={"until_s": until_s},
                expires_at=now + KEPT_FOR_S,
                request_key=wanted.request_key,
            )
            for some in batched(devices):
                give_commands(session, some, order, actor=actor, now=now)
    if not wanted.dry_run:
        publisher.announce(devices, Kind.COMMANDS)
    return Accepted(
        until_s=until_s,
        devices=devices,
        set_aside_windows=sum(set_aside[name] for name in devices),
        held_back=held_back,
    )


def _true_alarms(session: Session, chosen: ColumnElement[bool], until_s: float) -> dict[str, int]:
    """Devices with an alarm that was judged true and is not accepted yet, with the latest such anomaly."""
    accepted = (
        select(CommandRecord.device, func.max(CommandRecord.arguments["until_s"].as_float()).label("until_s"))
        .where(
            CommandRecord.action == CommandAction.ACCEPT_AS_NORMAL,
            CommandRecord.status.not_in(_UNSAID),
        )
        .group_by(CommandRecord.device)
        .subquery()
    )
    rows = session.execute(
        select(Anomaly.device, func.max(Anomaly.id))
        .join(VerdictRecord, VerdictRecord.anomaly == Anomaly.id)
        .join(Device, Device.id == Anomaly.device)
        .outerjoin(accepted, accepted.c.device == Anomaly.device)
        .where(
            chosen,
            VerdictRecord.verdict == Verdict.TRUE_ALARM,
            Anomaly.sent_at <= until_s,
            Anomaly.sent_at > func.coalesce(accepted.c.until_s, 0.0),
        )
        .group_by(Anomaly.device)
    )
    return dict(rows.all())
