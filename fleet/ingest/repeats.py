"""What is stored already and comes once more: found before it is decoded, and acknowledged again without a write.

A device says again what it did not hear acknowledged in time. A fleet that is behind hears everything twice, and if the second
costs as much as the first it never catches up. So this keeps in memory how far each boot was acknowledged, which only makes
**suspect**: new events cost a look in a dictionary. Of what is suspect the database **decides**, in one query a batch: the
device is enrolled, and the sequence lies in a stored range that is believed. Whatever else it is goes the whole road.

Not here: what a device seals (a forgery is told to people, also under a number that is stored), and last wills.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.ingest.boots import BootKey
from fleet.ingest.judging import Arrival
from fleet.ingest.ranges import FEW
from fleet.ingest.sequences import Range, containing
from fleet.storage.base import Database
from fleet.storage.boot_tables import Boot, EventRange
from fleet.storage.bulk import among
from fleet.storage.device_tables import Device, DeviceState
from protocol.messages.envelope import read_identity
from protocol.messages.kinds import Kind
from protocol.messages.payloads import Ack
from protocol.sealed_events import SEALED_BY_DEVICES
from protocol.topics import UPLINK_KINDS, device_topic

__all__ = ["Repeats"]

REMEMBERED: Final = 50_000
"""Boots of which it is known how far they are acknowledged, some 10 MB; beyond it the memory starts anew."""

_CHEAP: Final = frozenset(kind.value for kind in UPLINK_KINDS - SEALED_BY_DEVICES - {Kind.DEATH})


class Repeats:
    """Sorts a batch into what is new, or must be looked at, and what is stored.

    Args:
        database: the fleet's.
        tenant: whose topics are taken.
    """

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant
        self._acknowledged_to: dict[BootKey, int] = {}

    def note(self, acks: Mapping[str, Ack]) -> None:
        """Remember how far these boots were acknowledged."""
        if len(self._acknowledged_to) >= REMEMBERED:
            self._acknowledged_to.clear()
        for device, ack in acks.items():
            for boot in ack.boots:
                key = (device, boot.boot_id)
                self._acknowledged_to[key] = max(self._acknowledged_to.get(key, 0), boot.ranges[-1][1])

    def sort_out(self, arrivals: Sequence[Arrival]) -> tuple[list[Arrival], dict[BootKey, list[Range]], int]:
        """What goes the whole road; of the rest the ranges to acknowledge by boot, and how many messages it was.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database cannot be asked.
        """
        suspects: dict[int, tuple[BootKey, int]] = {}
        for at, arrival in enumerate(arrivals):
            named = self._suspect(arrival)
            if named is not None:
                suspects[at] = named
        if not suspects:
            return list(arrivals), {}, 0
        with self._database.read() as session:
            ranges = _believed(session, {key for key, _ in suspects.values()})
        known: dict[BootKey, set[Range]] = defaultdict(set)
        repeated = set()
        for at, (key, sequence) in suspects.items():
            if found := containing(ranges.get(key, ()), [sequence]):
                known[key].update(found)
                repeated.add(at)
        fresh = [arrival for at, arrival in enumerate(arrivals) if at not in repeated]
        return fresh, {key: sorted(found) for key, found in known.items()}, len(repeated)

    def _suspect(self, arrival: Arrival) -> tuple[BootKey, int] | None:
        _, _, rest = arrival.topic.partition(f"/{self._tenant}/")
        device, _, kind = rest.partition("/")
        if arrival.retained or kind not in _CHEAP:
            return None
        identity = read_identity(arrival.payload)
        if identity is None:
            return None
        key, sequence = (device, identity[0]), identity[1]
        if sequence > self._acknowledged_to.get(key, 0):
            return None
        # written by the one rule of topics, and compared: a name that was acknowledged is a valid one
        return (key, sequence) if arrival.topic == device_topic(self._tenant, device, Kind(kind)) else None


def _believed(session: Session, keys: Collection[BootKey]) -> dict[BootKey, list[Range]]:
    """The stored ranges of boots of enrolled devices, sorted, above what was closed; not of boots with many."""
    connection = session.connection()
    # three statements and no join: PostgreSQL, where it has no statistics yet, joins them by looking at all of each
    named = among(session, [Device.id], [(device,) for device in {device for device, _ in keys}])
    devices = select(Device.id).where(named, Device.state == DeviceState.ENROLLED)
    enrolled = set(connection.execute(devices).scalars())
    boots = select(Boot.device, Boot.boot_id, Boot.closed_to).where(
        among(session, [Boot.device, Boot.boot_id], keys), Boot.range_count <= FEW
    )
    closed = {
        (device, boot_id): closed_to
        for device, boot_id, closed_to in connection.execute(boots)
        if device in enrolled
    }
    ranges = select(EventRange.device, EventRange.boot_id, EventRange.first, EventRange.last).where(
        among(session, [EventRange.device, EventRange.boot_id], closed.keys())
    )
    found: dict[BootKey, list[Range]] = defaultdict(list)
    for device, boot_id, first, last in connection.execute(ranges.order_by(EventRange.first)):
        closed_to = closed[device, boot_id]
        if last > closed_to:
            found[device, boot_id].append((max(first, closed_to + 1), last))
    return found
