"""Which boot of a device comes after which: the order that no clock decides.

A device counts its starts, and (number, sequence) is the order of its events, whenever they arrive. What does not count
so is put in order as well as can be:

* a device that **counts anew** (its counter was lost) uses a number that another boot of it had, or enrolled again and
  starts below: a new era begins, and every boot of it is later than those of the eras before;
* an **older agent** tells no number: its boot follows the last one known when it is first heard by its birth, or when the
  device's clock says so, and stands before all others until then.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from fleet.storage.boot_tables import Boot, Position
from fleet.storage.device_tables import Device
from protocol.messages.envelope import Event
from protocol.messages.payloads import Birth

__all__ = ["BootKey", "begin_boot", "hear_boot", "position_of", "put_last", "read_boots"]

BEFORE_ALL: Final = -1
"""The era of boots of which nothing says that they are later than any other."""

HEARD_EVERY_S: Final = 60.0
"""How exactly it is written down when a boot was last heard: not at each message."""

BootKey = tuple[str, str]


def position_of(boot: Boot, sequence: int) -> Position:
    """Where the event with this sequence stands."""
    return Position(boot.era, boot.counted, boot.turn, sequence)


def read_boots(session: Session, keys: Collection[BootKey]) -> dict[BootKey, Boot]:
    """Those of these boots that are known."""
    if not keys:
        return {}
    rows = session.scalars(select(Boot).where(tuple_(Boot.device, Boot.boot_id).in_(list(keys))))
    return {(boot.device, boot.boot_id): boot for boot in rows}


def begin_boot(session: Session, device: Device, event: Event, received_at: float) -> Boot:
    """Write down a boot at the first event of it that arrives, in its place among those of its device."""
    boot = Boot(
        device=device.id,
        boot_id=event.boot_id,
        number=event.boot_number,
        era=BEFORE_ALL,
        counted=0,
        turn=0,
        first_received=received_at,
        last_received=received_at,
        will_received=None,
        range_count=0,
        closed_to=0,
        given_up=0,
    )
    last = _last_boot(session, device.id)
    if event.boot_number:
        boot.era, boot.counted = _era(session, device, last, event.boot_number), event.boot_number
    elif last is None or _is_later(device, last, event):
        _follow(session, boot, last)
    session.add(boot)
    return boot


def hear_boot(session: Session, boot: Boot, device: Device, event: Event, received_at: float) -> None:
    """Note that a boot speaks, and put one of an older agent in its place once its clock tells that."""
    if received_at - boot.last_received > HEARD_EVERY_S:
        boot.last_received = received_at
    if isinstance(event.data, Birth):
        boot.hardware, boot.agent_version = event.data.hardware, event.data.agent_version
    if not boot.number and device.boot_id != boot.boot_id and event.time > device.heard_sent_at:
        last = _last_boot(session, device.id)
        if last is not None and last is not boot and _is_later(device, last, event):
            _follow(session, boot, last)


def put_last(session: Session, boot: Boot) -> None:
    """Make a boot later than all others of its device: it is known to be the one that lives."""
    last = _last_boot(session, boot.device)
    if last is not None and last is not boot:
        boot.era = last.era + 1


def _last_boot(session: Session, device: str) -> Boot | None:
    places = (Boot.era.desc(), Boot.counted.desc(), Boot.turn.desc())
    return session.scalars(select(Boot).where(Boot.device == device).order_by(*places).limit(1)).first()


def _era(session: Session, device: Device, last: Boot | None, number: int) -> int:
    if last is None or last.era == BEFORE_ALL:
        return 0
    has_enrolled_since = (device.enrolled_again_at or 0.0) > last.first_received
    is_taken = session.scalar(
        select(Boot.boot_id)
        .where(Boot.device == device.id, Boot.era == last.era, Boot.number == number)
        .limit(1)
    )
    counts_anew = is_taken is not None or (has_enrolled_since and number <= last.counted)
    return last.era + 1 if counts_anew else last.era


def _is_later(device: Device, last: Boot, event: Event) -> bool:
    # a birth may lie in an outbox for long: where the device has learnt to count since, its clock must say so too
    is_born, is_younger = isinstance(event.data, Birth), event.time > device.heard_sent_at
    return (is_born and is_younger) if last.number else (is_born or is_younger)


def _follow(session: Session, boot: Boot, last: Boot | None) -> None:
    turns = session.scalar(select(func.max(Boot.turn)).where(Boot.device == boot.device)) or 0
    boot.era, boot.counted = (0, 0) if last is None else (max(last.era, 0), max(last.counted, 0))
    boot.turn = turns + 1
