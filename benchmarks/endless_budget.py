"""The budget of devices in benchmarks of the secure sum, which are about its time and its words and not about accounts."""

from __future__ import annotations

from protocol.names import DeviceId
from protocol.secure_sum.messages import Announcement

__all__ = ["EndlessBudget"]


class EndlessBudget:
    """A budget that is never spent; what a device persists about it is no part of these figures."""

    def check(self, announcement: Announcement) -> None:
        """See `protocol.secure_sum.budget.Budget`."""

    def check_cohort(self, announcement: Announcement, cohort: frozenset[DeviceId]) -> None:
        """See `protocol.secure_sum.budget.Budget`."""

    def charge(self, announcement: Announcement) -> None:
        """See `protocol.secure_sum.budget.Budget`."""

    def reveal(self, announcement: Announcement, survivors: frozenset[DeviceId]) -> None:
        """See `protocol.secure_sum.budget.Budget`."""
