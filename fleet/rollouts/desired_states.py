"""Writes what each device shall run, under a counter that only ever grows.

The counter lives apart from the desired state, because a desired state may be taken away (a device that ran nothing
before a rollout went back) and its counter must still never come again: a device refuses what is not newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fleet.releases import bundle_path, find_release
from fleet.storage.device_tables import Desired
from fleet.storage.release_tables import Release
from fleet.storage.rollout_tables import DesiredCounter
from protocol.names import DeviceId, split_release_id

__all__ = ["Wish", "write_desired"]

_CHUNK = 500  # bound parameters in one statement: SQLite before 3.32 takes 999


@dataclass(frozen=True, kw_only=True)
class Wish:
    """`release` for the execution id by which the device reports; release None takes the desired state away."""

    execution: str
    release: str | None


def write_desired(session: Session, wishes: Mapping[DeviceId, Wish], now: float) -> None:
    """Store the wish of each device under its next counter.

    Raises:
        NotFoundError: a wished release is not stored; the transaction must not commit.
    """
    counters = _next_counters(session, list(wishes))
    gone = [device for device, wish in wishes.items() if wish.release is None]
    for chunk in _chunks(gone):
        session.execute(delete(Desired).where(Desired.device.in_(chunk)))
    rows: list[Desired] = []
    records: dict[str, Release] = {}
    for device, wish in wishes.items():
        if wish.release is None:
            continue
        if wish.release not in records:
            records[wish.release] = find_release(session, *split_release_id(wish.release))
        record = records[wish.release]
        rows.append(
            Desired(
                device=device,
                execution=wish.execution,
                release=wish.release,
                counter=counters[device],
                bundle_path=bundle_path(record.family, record.version),
                bundle_sha256=record.sha256,
                bundle_bytes=record.size_bytes,
                set_at=now,
            )
        )
    for row in rows:
        session.merge(row)
    session.flush()


def _next_counters(session: Session, devices: list[DeviceId]) -> dict[DeviceId, int]:
    known: dict[str, DesiredCounter] = {}
    for chunk in _chunks(devices):
        for row in session.scalars(select(DesiredCounter).where(DesiredCounter.device.in_(chunk))):
            known[row.device] = row
        # merge() below then finds each row in the session instead of asking for it one by one
        session.scalars(select(Desired).where(Desired.device.in_(chunk))).all()
    for device in devices:
        if device in known:
            known[device].counter += 1
        else:
            known[device] = DesiredCounter(device=device, counter=1)
            session.add(known[device])
    return {device: known[device].counter for device in devices}


def _chunks(devices: list[DeviceId]) -> list[list[DeviceId]]:
    return [devices[start : start + _CHUNK] for start in range(0, len(devices), _CHUNK)]
