"""Two people press the same button: the second one is shown what has become of it, and does nothing."""

from __future__ import annotations

import pytest
from chromium_viewer import Seats
from dashboard_site import DashboardSite
from playwright.sync_api import expect

from service.roles import Role

pytestmark = pytest.mark.long


def test_who_comes_too_late_is_told_what_has_changed(seeded: DashboardSite, seat: Seats) -> None:
    first, second = seat(seeded, Role.OPERATOR), seat(seeded, Role.ADMIN)
    path = f"/rollouts/{seeded.rollouts['ready']}/start"
    pages = [one.go(path) for one in (first, second)]
    pages[0].get_by_role("button", name="Start").click()
    expect(pages[0].locator(".notice")).to_contain_text("started")
    pages[1].get_by_role("button", name="Start").click()
    expect(pages[1].locator(".notice")).to_contain_text("changed in between, and is RUNNING now")
