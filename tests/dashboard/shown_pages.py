"""Every page of the dashboard, as addresses of a site: of a fleet with a past, and of one without."""

from __future__ import annotations

from typing import Final

from dashboard_site import DashboardSite
from seeded_story import BLIND, DRIFTED, HOSTILE, REVOKED, SILENT
from seeded_training import REFUSED_RUN

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
    "/devices/motor-01/privacy",
    "/anomalies/1",
    "/rollouts/{undone}",
    "/rollouts/{running}/rollback",
    "/training/{refused}",
    "/releases/press/2",
)
"""Each kind of page, with something on it; `address` fills in names."""

MORE_PAGES: Final = (
    *(f"/devices/{name}" for name in (BLIND, DRIFTED, SILENT, REVOKED)),
    "/devices/motor-01?span=7d",
    "/devices?query=family%3D%3Dmotor",
    "/anomalies?order=score",
    *(
        f"/rollouts/{{{name}}}"
        for name in ("running", "completed", "paused", "lost", "waiting", "canceled", "ready")
    ),
    "/rollouts/{undone}/timeline",
    "/rollouts/{undone}/groups/0",
    *(
        f"/rollouts/{name}"
        for name in ("{waiting}/approve", "{ready}/start", "{running}/pause", "{paused}/resume")
    ),
    "/training/run-motor-0002",
    "/training/run-motor-now",
    "/training/run-pump-failed",
    "/releases/motor/2",
    "/releases/motor/3",
    "/releases/press/1/withdraw",
)
"""The same kinds once more, in other states."""


def address(site: DashboardSite, path: str) -> str:
    """A path of above at a site."""
    return path.format(refused=REFUSED_RUN, **site.rollouts)
