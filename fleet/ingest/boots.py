"""Which boot of a device comes after which: the order that no clock decides.

A device counts its starts, and (number, sequence) is the order of its events, whenever they arrive. What does not count
so is put in order as well as can be:

* a device that **counts anew** (its counter was lost) uses a number that another boot of it had, or enrolled again and
  starts below: a new era begins, and every boot of it is later than those of the eras before;
* an **older agent** tells no number: its boot follows the last one known when it is first heard by its birth, or when the
  device's clock says so, and stands before all others until then;
* whatever it counts, a boot that **speaks alone** is the present one: a memory that was restored from an older copy uses
  numbers of starts that were never heard, and a device whose disk refuses knows no number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Final

import structlog
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from fleet.storage.boot_tables import LATEST_FIRST, Boot, Position
from fleet.storage.device_tables import Device
from protocol.messages.envelope import Event
from protocol.messages.payloads import Birth, Health

__all__ = ["BootBook", "BootKey", "last_boot", "position_of"]

_log = structlog.get_logger()

BEFORE_ALL: Final = -1
"""The era of boots of which nothing says that they are later than any other."""

HEARD_EVERY_S: Final = 60.0
"""How exactly it is written down when a boot was last heard: not at each message."""

ALONE_S: Final = 600.0
"""A boot that tells its health for so long, and not a word of the one that should be later, is no straggler."""

BootKey = tuple[str, str]


def position_of(boot: Boot, sequence: int) -> Position:
    """Where the event with this sequence stands."""
    return Position(boot.era, boot.counted, boot.turn, sequence)


def last_boot(session: Session, device: str) -> Boot | None:
    """The boot of a device that comes after all others."""
    latest = select(Boot).where(Boot.device == device).order_by(*LATEST_FIRST)
    return session.scalars(latest.limit(1)).first()


class BootBook:
    """The boots that one batch of events speaks of, those it begins, and their order.

    Args:
        session: the transaction of the batch.
        keys: the boots it speaks of.
    """

    def __init__(self, session: Session, keys: Collection[BootKey]) -> None:
        self._session = session
        self._begun: dict[str, list[Boot]] = defaultdict(list)
        self.known: dict[BootKey, Boot] = {}
        self.add(keys)

    def add(self, keys: Collection[BootKey]) -> None:
        """Read those of these boots that are known."""
        if keys:
            rows = self._session.scalars(
                select(Boot).where(tuple_(Boot.device, Boot.boot_id).in_(list(keys)))
            )
            self.known |= {(boot.device, boot.boot_id): boot for boot in rows}

    def begin(self, device: Device, event: Event, received_at: float) -> Boot:
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
        # without a flush at each look: the devices of the batch have changed, and are written once
        with self._session.no_autoflush:
            last = self._last(device)
            if event.boot_number:
                boot.era, boot.counted = self._era(device, last, event.boot_number), event.boot_number
            elif last is None or _is_later(device, last, event):
                self._follow(boot, last)
        self._session.add(boot)
        self._begun[device.id].append(boot)
        self.known[device.id, event.boot_id] = boot
        return boot

    def hear(self, boot: Boot, device: Device, event: Event, received_at: float) -> None:
        """Note that a boot speaks, and put it in its place once its clock, or the silence of all others, tells that."""
        if received_at - boot.last_received > HEARD_EVERY_S:
            boot.last_received = received_at
        if isinstance(event.data, Birth):
            boot.hardware, boot.agent_version = event.data.hardware, event.data.agent_version
        if device.boot_id == boot.boot_id:
            return
        if isinstance(event.data, Health) and received_at - boot.first_received > ALONE_S:
            self._follow_if_alone(boot, device)
        if boot.number or device.boot_id is None or event.time <= device.heard_sent_at:
            return
        self._session.flush()
        last = self._last(device)
        if last is not None and last is not boot and _is_later(device, last, event):
            self._follow(boot, last)
            self._session.flush()

    def _follow_if_alone(self, boot: Boot, device: Device) -> None:
        self._session.flush()
        last = self._last(device)
        if last is None or last is boot or last.last_received >= boot.first_received:
            return
        if boot.number:
            boot.era, boot.counted, boot.turn = last.era + 1, boot.number, 0
        else:
            self._follow(boot, last)
        self._session.flush()
        _log.warning("boot_followed_though_older", device=device.id, boot=boot.boot_id, number=boot.number)

    def _last(self, device: Device) -> Boot | None:
        stored = last_boot(self._session, device.id)
        candidates = [*self._begun[device.id], *([] if stored is None else [stored])]
        return max(candidates, key=lambda boot: position_of(boot, 0), default=None)

    def _era(self, device: Device, last: Boot | None, number: int) -> int:
        if last is None or last.era == BEFORE_ALL:
            return 0
        if number > last.counted:
            return last.era
        has_enrolled_since = (device.enrolled_again_at or 0.0) > last.first_received
        same = (Boot.device == device.id, Boot.era == last.era, Boot.number == number)
        is_taken = any((boot.era, boot.number) == (last.era, number) for boot in self._begun[device.id])
        is_taken = is_taken or self._session.scalar(select(Boot.boot_id).where(*same).limit(1)) is not None
        return last.era + 1 if is_taken or has_enrolled_since else last.era

    def _follow(self, boot: Boot, last: Boot | None) -> None:
        if last is None:
            boot.era, boot.turn = 0, 1
            return
        turns = self._session.scalar(select(func.max(Boot.turn)).where(Boot.device == boot.device)) or 0
        boot.era, boot.counted = max(last.era, 0), last.counted
        boot.turn = max([turns, *(begun.turn for begun in self._begun[boot.device])]) + 1


def _is_later(device: Device, last: Boot, event: Event) -> bool:
    # a birth may lie in an outbox for long: where the device has learnt to count since, its clock must say so too
    is_born, is_younger = isinstance(event.data, Birth), event.time > device.heard_sent_at
    return (is_born and is_younger) if last.number else (is_born or is_younger)
