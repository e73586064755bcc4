"""Every page of the dashboard, as addresses of a site: of a fleet with a past, and of one without."""

from __future__ import annotations

from typing import Final

from dashboard_site import DashboardSite

__all__ = ["EMPTY_PAGES", "SEEDED_PAGES", "address"]

EMPTY_PAGES: Final = ("/", "/audit", "/service", "/sessions")
"""What there is to see before there is anything."""

SEEDED_PAGES: Final = EMPTY_PAGES
"""Each kind of page, with something on it; `address` fills in names."""


def address(site: DashboardSite, path: str) -> str:
    """A path of above at a site."""
    return path.format(run="run-motor-0002", **site.rollouts)
