"""The ledger of a crowd against the database of its fleet: nothing that was acknowledged is missing, nothing is there twice.

Every event that a device was told to forget must lie in the ranges of its boot, and, where its kind is a record, in the table of
that kind, once. What is there without having been acknowledged is no fault: the acknowledgement was on its way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sqlalchemy import select

from fleet.ingest.records import TABLE_OF
from fleet.storage.base import Database
from fleet.storage.boot_tables import EventRange
from simulations.hollow.device import KIND_CODES, Device

__all__ = ["Accounts", "settle_accounts"]

AT_ONCE: Final = 500
"""Devices in one question."""


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """What came out. `acknowledged` and `stored` are events; the other three must be 0.

    missing: acknowledged, and not in the database.
    doubled: there more than once.
    strange: there, and never said so by its device.
    """

    acknowledged: int
    stored: int
    missing: int
    doubled: int
    strange: int

    @property
    def are_right(self) -> bool:
        """Whether nothing was lost, doubled or made up."""
        return not (self.missing or self.doubled or self.strange)


def settle_accounts(database: Database, devices: Sequence[Device]) -> Accounts:
    """Compare; reads every event of these devices' present boots. Raises sqlalchemy.exc.SQLAlchemyError."""
    acknowledged = stored = missing = doubled = strange = 0
    rest = iter(devices)
    while some := {device.name: device for device in islice(rest, AT_ONCE)}:
        seen = {name: bytearray(len(device.kinds)) for name, device in some.items()}
        for name, sequence, code in _records(database, some):
            stored += 1
            kinds = some[name].kinds
            if not 0 < sequence < len(kinds) or kinds[sequence] != code:
                strange += 1
                continue
            doubled += seen[name][sequence]
            seen[name][sequence] = 1
        held = _ranges(database, some)
        for name, device in some.items():
            for sequence, code in enumerate(device.kinds):
                if not code or sequence in device.waiting:
                    continue
                acknowledged += 1
                is_there = any(first <= sequence <= last for first, last in held.get(name, ()))
                missing += not is_there or (code in _RECORDS and not seen[name][sequence])
    return Accounts(
        acknowledged=acknowledged, stored=stored, missing=missing, doubled=doubled, strange=strange
    )


def _records(database: Database, devices: dict[str, Device]) -> Iterator[tuple[str, int, int]]:
    """Device, sequence and kind of every record of the devices' present boots."""
    with database.read() as session:
        for kind, table in TABLE_OF.items():
            columns = select(table.device, table.boot_id, table.sequence).where(table.device.in_(devices))
            for name, boot, sequence in session.execute(columns.execution_options(yield_per=10_000)):
                if boot == devices[name].boot:
                    yield name, sequence, KIND_CODES[kind]


def _ranges(database: Database, devices: dict[str, Device]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    columns = select(EventRange.device, EventRange.boot_id, EventRange.first, EventRange.last)
    with database.read() as session:
        for name, boot, first, last in session.execute(columns.where(EventRange.device.in_(devices))):
            if boot == devices[name].boot:
                found.setdefault(name, []).append((first, last))
    return found


_RECORDS: Final = frozenset(KIND_CODES[kind] for kind in TABLE_OF)
