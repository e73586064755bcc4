"""This device's own privacy account: every masked answer is charged here before it leaves, or does not leave.

The limits are the device owner's (``[privacy]`` in agent.toml); an aggregator may announce stricter ones, never looser.
Kept in ``privacy.sqlite`` of the state directory, apart from bundles and keys: a restart, a new model or a rollback changes
nothing. A damaged file is never replaced by an empty one, because that would be a new budget: the device then refuses
every round until a person looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocol.privacy_cost import PrivacyCost

__all__ = ["ChargeLimits", "DeviceBudget", "Spending"]


@dataclass(frozen=True, kw_only=True)
class ChargeLimits:
    """How often and how much. None is no limit. `delta` turns costs into ε."""

    maximum_participations: int | None = None
    maximum_epsilon: float | None = None
    delta: float = 1e-6
    require_noise: bool = False


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What was given so far. `epsilon` is infinite when an answer without noise has left; `noised_epsilon` leaves those out."""

    participations: int
    noiseless: int
    cost: PrivacyCost
    epsilon: float
    noised_epsilon: float
    last_at_s: float | None


class DeviceBudget:
    """The account. `limits` are the owner's.

    Raises:
        StorageError: the file cannot be opened or is damaged.
    """

    def __init__(self, path: Path, limits: ChargeLimits) -> None: ...

    def charge(
        self,
        run: str,
        round_name: str,
        cost: PrivacyCost,
        *,
        now_s: float,
        announced: ChargeLimits | None = None,
    ) -> Spending:
        """Charge one masked answer; on return the charge survives a power cut and the answer may leave.

        Args:
            run: the training run.
            round_name: the attempt within it, e.g. ``train.fit 3.1``; each is given once.
            cost: `protocol.privacy_cost.planned_cost` of the round's noise; infinite `rho` without noise.
            now_s: Unix seconds, for the record only.
            announced: the run's limits; the stricter of both holds.

        Raises:
            ParticipationsSpentError, EpsilonSpentError, NoiseRequiredError, AlreadyGivenError: this answer must not leave;
                nothing was charged. The message is fit to be sent to the aggregator.
            StorageError: the charge cannot be made durable; the answer must not leave.
        """

    def spending(self) -> Spending:
        """What this device has given so far."""

    def close(self) -> None:
        """Close the file."""
