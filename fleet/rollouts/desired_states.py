"""Writes what each device shall run, under a counter that only ever grows (`fleet.desired.next_counter`).

The counter lives apart from the desired state, because a desired state may be taken away (a device that ran nothing
before a rollout went back) and its counter must still never come again: a device refuses what is not newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from fleet.desired import next_counter
from fleet.releases import bundle_path, find_release
from fleet.storage.device_tables import Desired
from fleet.storage.rollout_tables import DesiredCounter
from protocol.names import DeviceId, split_release_id

__all__ = ["Wish", "write_desired"]

_CHUNK: Final = 500  # bound parameters in one statement: SQLite before 3.32 takes 999


@dataclass(frozen=True, kw_only=True)
class Wish:
    """`release` for the execution id by which the device reports; release None takes the desired state away."""

    execution: str
    release: str | None


def write_desired(session: Session, wishes: Mapping[DeviceId, Wish], now: float) -> None:
    """Store the wish of each device under its next counter.

    A wish for no release takes the row away but not the counter, so that a later wish is still newer than every one
    before it.

    Raises:
        NotFoundError: a wished release is not stored; the transaction must not commit.
    """
    devices = list(wishes)
    counters = _next_counters(session, devices, now)
    for chunk in _chunks(devices):
        session.execute(
            delete(Desired).where(Desired.device.in_(chunk)).execution_options(synchronize_session=False)
        )
    releases = {wish.release for wish in wishes.values() if wish.release is not None}
    records = {release: find_release(session, *split_release_id(release)) for release in releases}
    rows = [
        {
            "device": device,
            "execution": wish.execution,
            "release": wish.release,
            "counter": counters[device],
            "bundle_path": bundle_path(records[wish.release].family, records[wish.release].version),
            "bundle_sha256": records[wish.release].sha256,
            "bundle_bytes": records[wish.release].size_bytes,
            "set_at": now,
        }
        for device, wish in wishes.items()
        if wish.release is not None
    ]
    if rows:
        session.execute(insert(Desired), rows)


def _next_counters(session: Session, devices: list[DeviceId], now: float) -> dict[DeviceId, int]:
    """A counter for each device that is above all it was given before, and not below the clock; stored at once."""
    known: dict[str, int] = {}
    for chunk in _chunks(devices):
        rows = session.execute(
            select(DesiredCounter.device, DesiredCounter.counter).where(DesiredCounter.device.in_(chunk))
        )
        known.update((device, counter) for device, counter in rows)
    counters = {device: next_counter(known.get(device, 0), now) for device in devices}
    grown = [{"device": d, "counter": counters[d]} for d in devices if d in known]
    first = [{"device": d, "counter": counters[d]} for d in devices if d not in known]
    if grown:
        session.execute(update(DesiredCounter), grown)
    if first:
        session.execute(insert(DesiredCounter), first)
    return counters


def _chunks(devices: list[DeviceId]) -> list[list[DeviceId]]:
    return [devices[start : start + _CHUNK] for start in range(0, len(devices), _CHUNK)]
