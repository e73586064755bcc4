"""Devices that are in a fleet's database and not connected, each with six hours of health: what a preview over many records reads."""

from __future__ import annotations

import time
from contextlib import closing

from sqlalchemy import Integer, cast, func, insert, literal, select, true

from fleet.storage.base import Database, open_database
from fleet.storage.block_tables import BLOCK_S, HealthBlock
from fleet.storage.device_tables import Device
from simulations.hollow.own_fleet import FAMILY

PAST_S = 6 * 3600
AT_ONCE = 5000


def add_recorded(database_url: str, devices: int) -> None:
    """So many devices that are enrolled, were heard once and are not connected, and what they showed until now."""
    with closing(open_database(database_url)) as stored:
        for first in range(0, devices, AT_ONCE):
            with stored.write() as session:
                session.add_all(recorded(number) for number in range(first, min(first + AT_ONCE, devices)))
        for ending in range(100):
            remember(stored, ending)


def remember(stored: Database, ending: int) -> None:
    """The past of recorded devices whose number ends so, as blocks of ten minutes that differ from one another."""
    until = int(time.time() // BLOCK_S) * BLOCK_S
    back = select(literal(1).label("n")).cte("back", recursive=True)
    back = back.union_all(select(back.c.n + 1).where(back.c.n < PAST_S // BLOCK_S))
    number = cast(func.substr(Device.id, len("recorded-") + 1), Integer)
    noise = ((number * 7919 + back.c.n * 104_729) % 1009) / 1009.0
    start = until - back.c.n * BLOCK_S
    block = {
        "device": Device.id,
        "start": start,
        "release": literal(f"{FAMILY}/2"),
        "reports": literal(20),
        "seconds": literal(600.0),
        "windows": literal(1200),
        "judged": literal(1200),
        "over": func.floor(24 * noise),
        "latency_count": literal(20),
        "latency_sum": 20 * (4.6 + 0.2 * noise),
        "drift_sum": 20 * (0.1 * noise - 1.6),
        "memory_count": literal(20),
        "memory_t": literal(20 / 12),
        "memory_tt": literal(20 / 108),
        "memory_y": 20 * (17.7 + 0.001 * noise),
        "memory_ty": literal(20 / 12 * 17.7),
        "sight_count": literal(20),
        "sight_sum": 20 * (0.85 + 0.1 * noise),
        "first_at": start + 15.0,
        "last_at": start + BLOCK_S - 15.0,
        "silences": literal(0),
    }
    some = Device.id.like(f"recorded-%{ending:02}")
    rows = select(*block.values()).select_from(Device).join(back, true()).where(some)
    with stored.write() as session:
        session.execute(insert(HealthBlock).from_select(list(block), rows))


def recorded(number: int) -> Device:
    """A device that is enrolled, was heard once and is not connected."""
    return Device(
        id=f"recorded-{number:06d}",
        fingerprint=f"{number:064x}",
        public_key="",
        hardware="hollow",
        family=FAMILY,
        labels={},
        enrolled_at=0.0,
        last_seen=0.0,
    )
