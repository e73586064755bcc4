"""Every page of the dashboard, as addresses of a site: of a fleet with a past, and of one without."""

from __future__ import annotations

from typing import Final

from dashboard_site import DashboardSite
from seeded_story import BLIND, DRIFTED, HOSTILE, REVOKED, SILENT

__all__ = ["EMPTY_PAGES", "MORE_PAGES", "SEEDED_PAGES", "address"]

EMPTY_PAGES: Final = (
    "/",
    "/devices",
    "/anomalies",
    "/precision",
    "/rollouts",
    "/rollouts/new",
    "/training",
    "/releases",
    "/alerts",
    "/audit",
    "/service",
    "/sessions",
)
"""What there is to see before there is anything."""

SEEDED_PAGES: Final = (
    *EMPTY_PAGES,
    f"/devices/{HOSTILE}",
    f"/devices/{DRIFTED}",
    "/anomalies/1",
    "/rollouts/{running}",
    "/rollouts/{undone}",
    "/releases/motor/2",
    "/training/{run}",
)
"""Each kind of page, with something on it; `address` fills in names."""

MORE_PAGES: Final = (
    f"/devices/{BLIND}",
    f"/devices/{SILENT}",
    f"/devices/{REVOKED}",
    "/devices/motor-01",
    "/devices?query=family%3D%3Dmotor",
    "/devices?query=family%3D%3D%3D",
    "/rollouts/{completed}",
    "/rollouts/{paused}",
    "/rollouts/{lost}",
    "/rollouts/{waiting}",
    "/rollouts/{canceled}",
    "/rollouts/{ready}",
    "/releases/motor/3",
    "/releases/press/1",
)
"""The same kinds once more, in other states."""


def address(site: DashboardSite, path: str) -> str:
    """A path of above at a site."""
    return path.format(run="run-motor-0002", **site.rollouts)
