"""How the fleet's word to a device leaves the database: the port, the rows as messages, and their counters.

Two words are retained: what the device shall run, and its commands and settings (`fleet.device_commands`). The database
is the truth; what is published may be lost. So the port takes device names, not states: the publisher reads the
row when it sends, can never send an outdated one last, and sends every row again when it (re)connects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.storage.device_tables import Desired
from fleet.storage.rollout_tables import DesiredCounter
from protocol.limits import MAX_INTEGER
from protocol.messages.kinds import Kind
from protocol.messages.payloads import DesiredState

__all__ = ["DesiredPublisher", "desired_state", "next_counter", "overtake_desired"]

CLOCK_START_S: Final = 1_704_067_200.0
"""2024-01-01, Unix seconds: counters stay short."""


class DesiredPublisher(Protocol):
    """Tells devices, soon, what they shall run and what they shall do."""

    def announce(self, devices: Iterable[str], kind: Kind = Kind.DESIRED) -> None:
        """Publish the current row of each device, after the transaction that changed it has committed.

        `kind` is DESIRED (`Desired`) or COMMANDS (`DeviceCommands`). Returns at once and may be called from any thread.
        Without a row, the device's retained message is cleared. Broker away: nothing is lost, all rows are published at
        the next connect.
        """


def desired_state(row: Desired, *, is_approved: bool = False) -> DesiredState:
    """The word for a row; `is_approved`: a person approved a rollout of its release."""
    return DesiredState(
        execution=row.execution,
        release=row.release,
        counter=row.counter,
        bundle_path=row.bundle_path,
        bundle_sha256=row.bundle_sha256,
        bundle_bytes=row.bundle_bytes,
        is_approved=is_approved,
    )


def next_counter(known: int, now: float) -> int:
    """The counter after `known` (0: none yet) at Unix second `now`: devices refuse what is not newer.

    It follows the clock (seconds since 2024), but never stands still or goes back: so a fleet that lost its database
    and begins anew is still ahead of every counter that its devices accepted before, and one whose clock fell back is
    too.
    """
    return max(known + 1, 1, int(now - CLOCK_START_S))


def overtake_desired(session: Session, obeyed: Mapping[str, int], now: float) -> set[str]:
    """Go on beyond the counters that devices have obeyed (by device), and say what they shall run anew; returns who is to hear it."""
    counters = {
        row.device: row
        for row in session.scalars(select(DesiredCounter).where(DesiredCounter.device.in_(list(obeyed))))
    }
    told: set[str] = set()
    for device, counter in obeyed.items():
        row = counters.get(device)
        if row is not None and row.counter >= counter:
            continue  # it heard an older word late, and the newer one before
        if row is None:
            row = DesiredCounter(device=device, counter=0)
            session.add(row)
        row.counter = min(next_counter(max(row.counter, counter), now), MAX_INTEGER)
        if (wanted := session.get(Desired, device)) is not None:
            wanted.counter = row.counter
            told.add(device)
    return told
