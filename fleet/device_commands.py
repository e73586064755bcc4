"""Tell devices to do something once: give a command, take it back, let it expire, hear what became of it.

::

    given ─► WAITING ─► IN_PROGRESS ─► DONE | FAILED | INTERRUPTED        the device's own words
                │  └──► REFUSED | EXPIRED                                  likewise
                └─────► CANCELED | SUPERSEDED | EXPIRED                    the fleet's; a device that had begun it overrules them

Invariants: a command, the device's counter and the audit line are one transaction. Of each action at most one command is
outstanding for a device: so what a device that was away for weeks finds is short, and says each thing once.
What devices say of them is `fleet.command_results`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from fleet import audit
from fleet.desired import next_counter
from fleet.errors import ConflictError, NotFoundError
from fleet.storage.command_tables import CommandRecord, DeviceCommands
from fleet.storage.device_tables import Device, DeviceState
from protocol.limits import MAX_INTEGER
from protocol.messages.commands import Command, Commands
from protocol.messages.kinds import CommandAction, CommandStatus

__all__ = [
    "OUTSTANDING",
    "Given",
    "Order",
    "batched",
    "cancel_command",
    "check_reachable",
    "expire_commands",
    "find_command",
    "find_device",
    "give_commands",
    "is_due",
    "read_words",
    "step_counter",
    "words_for",
]

KEPT_FINISHED: Final = 100
"""Commands of a device that are over and still listed; older ones go when another is given. The audit log keeps its lines."""
EXPIRED_AT_ONCE: Final = 500
AT_ONCE: Final = 500
"""Devices in one transaction: a tenth of a second, in which no event is stored."""
OUTSTANDING: Final = (CommandStatus.WAITING, CommandStatus.IN_PROGRESS)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked of each device, until when (Unix seconds), and under which idempotency key, hashed."""

    action: CommandAction
    expires_at: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    request_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Given:
    """Who has the command under which number, who was left out and why, and how many had not been given it before."""

    numbers: dict[str, int]
    held_back: dict[str, str]
    new: int


def give_commands(
    session: Session, devices: Sequence[str], order: Order, *, actor: str, now: float, dry_run: bool = False
) -> Given:
    """Give every device of `devices` the same command, but for those that have one of its kind outstanding.

    A later `accept-as-normal` says what an earlier one said and more: it takes its place.

    Raises:
        ConflictError: the idempotency key was used for another command.
    """
    outstanding = _outstanding(session, devices, order.action)
    known = _asked_before(session, devices, order)
    words = read_words(session, devices)
    numbers, held_back = dict(known), {}
    for device in devices:
        if device in known:
            continue
        earlier = outstanding.get(device)
        if earlier is not None and order.action is not CommandAction.ACCEPT_AS_NORMAL:
            held_back[device] = (
                f"command {earlier.number} ({earlier.action}) is {earlier.status}, and has not ended"
            )
            continue
        numbers[device] = 0
        if dry_run:
            continue
        numbers[device] = _give(session, device, words.get(device), order, earlier, actor=actor, now=now)
    if not dry_run:
        _prune(session, devices)
    return Given(numbers=numbers, held_back=held_back, new=len(numbers) - len(known))


def _give(
    session: Session,
    device: str,
    word: DeviceCommands | None,
    order: Order,
    earlier: CommandRecord | None,
    *,
    actor: str,
    now: float,
) -> int:
    arguments = dict(order.arguments)
    if earlier is not None:
        arguments["until_s"] = max(arguments["until_s"], earlier.arguments["until_s"])
        _end(earlier, CommandStatus.SUPERSEDED, "a later one says this and more", now)
    number = step_counter(session, device, word, now).counter
    session.add(
        CommandRecord(
            device=device,
            number=number,
            action=order.action,
            arguments=arguments,
            status=CommandStatus.WAITING,
            asked_by=actor,
            asked_at=now,
            expires_at=order.expires_at,
            changed_at=now,
            request_key=order.request_key,
        )
    )
    audit.record(
        session,
        at=now,
        actor=actor,
        action="command_given",
        subject=device,
        number=number,
        command=order.action.value,
        arguments=arguments,
    )
    return number


def step_counter(session: Session, device: str, word: DeviceCommands | None, now: float) -> DeviceCommands:
    """The word to a device under its next counter, which is written with the transaction."""
    if word is None:
        word = DeviceCommands(device=device, counter=0, settings={}, settings_counter=0)
        session.add(word)
    word.counter = next_counter(word.counter, now)
    return word


def cancel_command(session: Session, device: str, number: int, *, actor: str, now: float) -> None:
    """Take a command back; one that the device has begun, or begins at this moment, may be carried out all the same.

    Raises:
        NotFoundError: there is no such command.
        ConflictError: it is over.
    """
    record = find_command(session, device, number)
    if CommandStatus(record.status).is_final:
        raise ConflictError(
            f"command {number} of {device!r} is {record.status}: there is nothing to take back"
        )
    began = record.status == CommandStatus.IN_PROGRESS
    _end(record, CommandStatus.CANCELED, f"by {actor}{', after the device had begun' if began else ''}", now)
    step_counter(session, device, session.get(DeviceCommands, device), now)
    audit.record(session, at=now, actor=actor, action="command_canceled", subject=device, number=number)


def find_command(session: Session, device: str, number: int) -> CommandRecord:
    """One command; raises NotFoundError."""
    record = session.get(CommandRecord, (device, number)) if number <= MAX_INTEGER else None
    if record is None:
        raise NotFoundError(f"device {device[:80]!r} has no command {number}")
    return record


def is_due(now: float) -> ColumnElement[bool]:
    """That a command has waited for its device until it expired."""
    return (CommandRecord.status == CommandStatus.WAITING) & (CommandRecord.expires_at <= now)


def expire_commands(session: Session, now: float) -> list[str]:
    """End commands that no device has answered in time; returns whose word has changed."""
    records = session.scalars(select(CommandRecord).where(is_due(now)).limit(EXPIRED_AT_ONCE)).all()
    words = read_words(session, {record.device for record in records})
    for record in records:
        _end(record, CommandStatus.EXPIRED, "the device has not answered in time", now)
    for device, word in words.items():
        step_counter(session, device, word, now)
    return sorted(words)


def words_for(session: Session, devices: Iterable[str]) -> dict[str, Commands]:
    """The word to each of `devices` that has one."""
    words = read_words(session, list(devices))
    outstanding: dict[str, list[Command]] = {device: [] for device in words}
    rows = (
        select(CommandRecord)
        .where(CommandRecord.device.in_(list(words)), CommandRecord.status.in_(OUTSTANDING))
        .order_by(CommandRecord.number)
    )
    for row in session.scalars(rows):
        outstanding[row.device].append(
            Command(number=row.number, action=row.action, expires_at=row.expires_at, arguments=row.arguments)
        )
    return {
        device: Commands(counter=word.counter, settings=word.settings, outstanding=tuple(outstanding[device]))
        for device, word in words.items()
    }


def batched(devices: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many at a time as a transaction should hold, and a statement may name on either database."""
    for start in range(0, len(devices), AT_ONCE):
        yield devices[start : start + AT_ONCE]


def find_device(session: Session, device: str) -> Device:
    """A device; raises NotFoundError."""
    row = session.get(Device, device)
    if row is None:
        raise NotFoundError(f"there is no device {device[:80]!r}")
    return row


def check_reachable(session: Session, device: str) -> Device:
    """A device that can be told something; raises as `find_device`, and ConflictError where it was shut out."""
    row = find_device(session, device)
    if row.state != DeviceState.ENROLLED:
        raise ConflictError(f"device {device!r} is {row.state}: nobody can tell it anything")
    return row


def _end(record: CommandRecord, status: CommandStatus, reason: str, now: float) -> None:
    record.status, record.reason, record.changed_at = status, reason, now


def read_words(session: Session, devices: Iterable[str]) -> dict[str, DeviceCommands]:
    """The rows of those of `devices` that were ever told something."""
    rows = session.scalars(select(DeviceCommands).where(DeviceCommands.device.in_(list(devices))))
    return {row.device: row for row in rows}


def _outstanding(session: Session, devices: Sequence[str], action: CommandAction) -> dict[str, CommandRecord]:
    rows = select(CommandRecord).where(
        CommandRecord.device.in_(devices),
        CommandRecord.action == action,
        CommandRecord.status.in_(OUTSTANDING),
    )
    return {row.device: row for row in session.scalars(rows)}


def _asked_before(session: Session, devices: Sequence[str], order: Order) -> dict[str, int]:
    if order.request_key is None:
        return {}
    rows = select(CommandRecord).where(
        CommandRecord.device.in_(devices), CommandRecord.request_key == order.request_key
    )
    found: dict[str, int] = {}
    for row in session.scalars(rows):
        # of an acceptance "until now" is another number each time, and the earlier one that it takes up may reach further
        is_same = order.action is CommandAction.ACCEPT_AS_NORMAL or row.arguments == dict(order.arguments)
        if row.action != order.action or not is_same:
            raise ConflictError(
                f"command {row.number} of {row.device!r} was asked for under this Idempotency-Key, and is another one;"
                " ask for this one under a new key"
            )
        found[row.device] = row.number
    return found


def _prune(session: Session, devices: Sequence[str]) -> None:
    session.flush()
    is_over = CommandRecord.status.not_in(OUTSTANDING)
    crowded = (
        select(CommandRecord.device)
        .where(CommandRecord.device.in_(devices), is_over)
        .group_by(CommandRecord.device)
        .having(func.count() > KEPT_FINISHED)
    )
    for device in session.scalars(crowded).all():
        mine = CommandRecord.device == device
        over = select(CommandRecord.number).where(mine, is_over).order_by(CommandRecord.number.desc())
        old = session.scalars(over.offset(KEPT_FINISHED)).all()
        session.execute(
            delete(CommandRecord)
            .where(mine, CommandRecord.number.in_(old))
            .execution_options(synchronize_session=False)
        )
