"""Every page of the dashboard, as addresses of a site: of a fleet with a past, and of one without."""

from __future__ import annotations

from typing import Final

from dashboard_site import DashboardSite
from seeded_story import BLIND, DRIFTED, HOSTILE, REVOKED, SILENT

__all__ = ["EMPTY_PAGES", "MORE_PAGES", "SEEDED_PAGES", "address"]

EMPTY_PAGES: Final = ("/", "/devices", "/anomalies", "/precision", "/audit", "/service", "/sessions")
"""What there is to see before there is anything."""

SEEDED_PAGES: Final = (*EMPTY_PAGES, f"/devices/{HOSTILE}", "/anomalies/1")
"""Each kind of page, with something on it; `address` fills in names."""

MORE_PAGES: Final = (
    *(f"/devices/{name}" for name in (BLIND, DRIFTED, SILENT, REVOKED)),
    "/devices/motor-01?span=7d",
    "/devices?query=family%3D%3Dmotor",
    "/anomalies?order=score",
)
"""The same kinds once more, in other states."""


def address(site: DashboardSite, path: str) -> str:
    """A path of above at a site."""
    return path.format(run="run-motor-0002", **site.rollouts)
