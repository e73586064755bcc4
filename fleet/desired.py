"""How the fleet's wish for a device leaves the database: the port, and the row as a message.

The database is the truth; publishing is a hint that may be lost. So the port takes device names, not states: the
publisher reads the row when it sends, can never send an outdated one last, and sends every row again when it
(re)connects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from fleet.storage.device_tables import Desired
from protocol.messages.payloads import DesiredState

__all__ = ["DesiredPublisher", "desired_state"]


class DesiredPublisher(Protocol):
    """Tells devices, soon, what they shall run."""

    def announce(self, devices: Iterable[str]) -> None:
        """Publish the current `Desired` row of each device, after the transaction that changed it has committed.

        Returns at once and may be called from any thread. Without a row, the device's retained state is cleared.
        Broker away: nothing is lost, all rows are published at the next connect.
        """


def desired_state(row: Desired) -> DesiredState:
    """The message for a row."""
    return DesiredState(
        execution=row.execution,
        release=row.release,
        counter=row.counter,
        bundle_path=row.bundle_path,
        bundle_sha256=row.bundle_sha256,
        bundle_bytes=row.bundle_bytes,
    )
