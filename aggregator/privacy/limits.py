"""What a family may spend over its whole life. Written into the ledger with each plan, so the ledger alone explains a figure."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.errors import PrivacyPlanError

__all__ = ["FamilyBudget"]


@dataclass(frozen=True, kw_only=True)
class FamilyBudget:
    """Limits and how they are counted. A limit of None is no limit.

    `delta` goes with every ε and should be below one over the number of devices. `maximum_participations` is what
    devices are told and enforce themselves: to how many sums a device gives.
    """

    delta: float = 1e-6
    epsilon_server: float | None = None
    epsilon_release: float | None = None
    maximum_participations: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that mean nothing."""
        if not 0 < self.delta < 1:
            raise PrivacyPlanError(f"delta must be between 0 and 1, e.g. 1e-6, got {self.delta}")
        for name in ("epsilon_server", "epsilon_release", "maximum_participations"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise PrivacyPlanError(f"{name} must be positive, or left out for no limit, got {limit}")
