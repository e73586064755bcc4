"""Every endpoint of the HTTP API."""

from __future__ import annotations

from typing import Final

from fleet.api import (
    admission,
    alerts,
    commands,
    dead_letters,
    device_filters,
    device_settings,
    devices,
    enrolments,
    erasures,
    event_log,
    events,
    normal,
    observations,
    operations,
    releases,
    rollouts,
    roster,
    sign_in,
    trust,
    verdicts,
)

__all__ = ["ROUTERS"]

ROUTERS: Final = tuple(
    module.router
    for module in (
        devices,
        commands,
        device_filters,
        device_settings,
        normal,
        enrolments,
        admission,
        erasures,
        roster,
        releases,
        trust,
        rollouts,
        observations,
        verdicts,
        dead_letters,
        alerts,
        event_log,
        events,
        operations,
        sign_in,
    )
)
"""In the order in which they are tried."""
