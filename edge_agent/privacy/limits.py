"""The device owner's limits, from the settings."""

from __future__ import annotations

from edge_agent.privacy.budget import ChargeLimits
from edge_agent.settings import PrivacySettings

__all__ = ["owners_limits"]


def owners_limits(settings: PrivacySettings) -> ChargeLimits:
    """``[privacy]`` of agent.toml as the account takes it."""
    return ChargeLimits(
        maximum_participations=settings.maximum_participations,
        maximum_epsilon=settings.maximum_epsilon,
        delta=settings.delta,
        require_noise=settings.require_noise,
    )
