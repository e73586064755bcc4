"""What a device asks its owner's account before it gives anything to a secure sum.

A port: the account itself, which knows kinds of questions, snapshots and ε, is the device's (`edge_agent.privacy`).
"""

from __future__ import annotations

from typing import Protocol

from protocol.names import DeviceId
from protocol.secure_sum.messages import Announcement

__all__ = ["Budget"]


class Budget(Protocol):
    """What the device may still give. Its state must survive restarts; see `edge_agent.privacy`.

    Each method returns where the round may go on, and raises where it may not; the role then wipes the round's secrets and passes
    the error on as it is.
    """

    def check(self, announcement: Announcement) -> None:
        """Whether the device may take part in this round at all; charges nothing."""

    def check_cohort(self, announcement: Announcement, cohort: frozenset[DeviceId]) -> None:
        """Whether it may be part of a sum over just these devices, itself among them."""

    def charge(self, announcement: Announcement) -> None:
        """Record one answer, durably, before it returns: called before the device's data are touched."""

    def reveal(self, announcement: Announcement, survivors: frozenset[DeviceId]) -> None:
        """Record, durably, that shares leave with which the sum over `survivors` is opened."""
