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

from collections.abc import Collection
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import structlog
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased

from fleet.ingest.device_view import DeviceView
from fleet.storage.boot_tables import Boot, Position
from fleet.storage.bulk import among, insert_rows, update_rows
from protocol.messages.envelope import Event
from protocol.messages.payloads import Birth, Health

__all__ = ["BootBook", "BootKey", "KnownBoot", "position_of"]

_log = structlog.get_logger()

BEFORE_ALL: Final = -1
"""The era of boots of which nothing says that they are later than any other."""

HEARD_EVERY_S: Final = 60.0
"""How exactly it is written down when a boot was last heard: not at each message."""

ALONE_S: Final = 600.0
"""A boot that tells its health for so long, and not a word of the one that should be later, is no straggler."""

BootKey = tuple[str, str]


@dataclass(slots=True)
class KnownBoot:
    """A row of `Boot` as a batch reads and changes it. `written`: what the database has; None: nothing yet."""

    device: str
    boot_id: str
    number: int
    era: int
    counted: int
    turn: int
    first_received: float
    last_received: float
    will_received: float | None
    hardware: str | None
    agent_version: str | None
    range_count: int
    closed_to: int
    given_up: int
    written: tuple[Any, ...] | None = None

    @property
    def key(self) -> BootKey:
        """Which boot of which device."""
        return self.device, self.boot_id


_KEY: Final = ("device", "boot_id")
_COLUMNS: Final = tuple(name for name in KnownBoot.__slots__ if name != "written")
_values: Final = attrgetter(*_COLUMNS)
_QUERY: Final = select(*(Boot.__table__.c[name] for name in _COLUMNS))


def position_of(boot: KnownBoot, sequence: int) -> Position:
    """Where the event with this sequence stands."""
    return Position(boot.era, boot.counted, boot.turn, sequence)


class BootBook:
    """The boots that one batch of events speaks of, those it begins, and their order.

    What changes is written by `write`: at the end, and before anything is asked of the database that it may change.

    Args:
        session: the transaction of the batch.
        keys: the boots it speaks of.
    """

    def __init__(self, session: Session, keys: Collection[BootKey]) -> None:
        self._session = session
        self.known: dict[BootKey, KnownBoot] = {}
        self._last: dict[str, KnownBoot | None] = {}
        self.add(keys)
        # a device that begins a boot is asked for the last one: all such devices at once
        self._read_last({device for device, boot_id in keys if (device, boot_id) not in self.known})

    def add(self, keys: Collection[BootKey]) -> None:
        """Read those of these boots that are known."""
        if keys:
            self._read(_QUERY.where(among(self._session, [Boot.device, Boot.boot_id], keys)))

    def write(self) -> None:
        """Write what has changed since it was read or written."""
        begun: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        for boot in self.known.values():
            now = _values(boot)
            if now != boot.written:
                (changed if boot.written else begun).append(dict(zip(_COLUMNS, now, strict=True)))
                boot.written = now
        insert_rows(self._session, Boot, begun)
        update_rows(self._session, Boot, _KEY, changed)

    def begin(self, device: DeviceView, event: Event, received_at: float) -> KnownBoot:
        """Write down a boot at the first event of it that arrives, in its place among those of its device."""
        boot = KnownBoot(
            device=device.id,
            boot_id=event.boot_id,
            number=event.boot_number,
            era=BEFORE_ALL,
            counted=0,
            turn=0,
            first_received=received_at,
            last_received=received_at,
            will_received=None,
            hardware=None,
            agent_version=None,
            range_count=0,
            closed_to=0,
            given_up=0,
        )
        last = self.last(device.id)
        if event.boot_number:
            self._move(boot, self._era(device, last, event.boot_number), event.boot_number, 0)
        elif last is None or _is_later(device, last, event):
            self._follow(boot, last)
        else:
            self._move(boot, BEFORE_ALL, 0, 0)
        self.known[boot.key] = boot
        return boot

    def hear(self, boot: KnownBoot, device: DeviceView, event: Event, received_at: float) -> None:
        """Note that a boot speaks, and put it in its place once its clock, or the silence of all others, tells that."""
        if received_at - boot.last_received > HEARD_EVERY_S:
            boot.last_received = received_at
        if isinstance(event.data, Birth):
            boot.hardware, boot.agent_version = event.data.hardware, event.data.agent_version
        if device.boot_id == boot.boot_id:
            return
        if isinstance(event.data, Health) and received_at - boot.first_received > ALONE_S:
            self._follow_if_alone(boot)
        if boot.number or device.boot_id is None or event.time <= device.heard_sent_at:
            return
        last = self.last(device.id)
        if last is not None and last is not boot and _is_later(device, last, event):
            self._follow(boot, last)

    def last(self, device: str) -> KnownBoot | None:
        """The boot of a device that comes after all others."""
        if device not in self._last:
            self.write()
            self._read_last({device})
        return self._last[device]

    def _follow_if_alone(self, boot: KnownBoot) -> None:
        last = self.last(boot.device)
        if last is None or last is boot or last.last_received >= boot.first_received:
            return
        if boot.number:
            self._move(boot, last.era + 1, boot.number, 0)
        else:
            self._follow(boot, last)
        _log.warning("boot_followed_though_older", device=boot.device, boot=boot.boot_id, number=boot.number)

    def _era(self, device: DeviceView, last: KnownBoot | None, number: int) -> int:
        if last is None or last.era == BEFORE_ALL:
            return 0
        if number > last.counted:
            return last.era
        if (device.enrolled_again_at or 0.0) > last.first_received:
            return last.era + 1
        self.write()
        same = (Boot.device == device.id, Boot.era == last.era, Boot.number == number)
        is_taken = self._session.scalar(select(Boot.boot_id).where(*same).limit(1)) is not None
        return last.era + 1 if is_taken else last.era

    def _follow(self, boot: KnownBoot, last: KnownBoot | None) -> None:
        if last is None:
            self._move(boot, 0, 0, 1)
            return
        self.write()
        turns = self._session.scalar(select(func.max(Boot.turn)).where(Boot.device == boot.device)) or 0
        self._move(boot, max(last.era, 0), last.counted, turns + 1)

    def _move(self, boot: KnownBoot, era: int, counted: int, turn: int) -> None:
        """Put a boot in its place, which is never before the one it had."""
        boot.era, boot.counted, boot.turn = era, counted, turn
        if boot.device in self._last:
            last = self._last[boot.device]
            if last is None or position_of(boot, 0) > position_of(last, 0):
                self._last[boot.device] = boot

    def _read(self, query: Select[Any]) -> list[KnownBoot]:
        """The boots that a query finds; one that is known already is not read again."""
        found = []
        for values in self._session.connection().execute(query):
            boot = KnownBoot(*values)
            boot.written = tuple(values)
            found.append(self.known.setdefault(boot.key, boot))
        return found

    def _read_last(self, devices: Collection[str]) -> None:
        if not devices:
            return
        other = aliased(Boot)
        place = (getattr(other, name).desc() for name in ("era", "counted", "turn"))
        last = select(other.boot_id).where(other.device == Boot.device).order_by(*place).limit(1)
        mine = among(self._session, [Boot.device], [(device,) for device in devices])
        query = _QUERY.where(mine, Boot.boot_id == last.scalar_subquery())
        self._last |= dict.fromkeys(devices) | {boot.device: boot for boot in self._read(query)}


def _is_later(device: DeviceView, last: KnownBoot, event: Event) -> bool:
    # a birth may lie in an outbox for long: where the device has learnt to count since, its clock must say so too
    is_born, is_younger = isinstance(event.data, Birth), event.time > device.heard_sent_at
    return (is_born and is_younger) if last.number else (is_born or is_younger)
