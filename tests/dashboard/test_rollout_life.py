"""A rollout is created, watched, paused and rolled back by clicking, while another person looks on."""

from __future__ import annotations

import pytest
from chromium_viewer import Seats
from dashboard_site import DashboardSite
from live_devices import LiveDevices
from playwright.sync_api import Page, expect

from service.roles import Role

pytestmark = pytest.mark.long


def confirm(page: Page, verb: str, button: str) -> None:
    page.get_by_role("link", name=verb, exact=True).click()
    page.get_by_role("button", name=button).click()


def test_a_rollout_lives_and_goes_back_by_clicking_and_another_person_sees_it(
    seeded: DashboardSite, seat: Seats
) -> None:
    operator, viewer = seat(seeded, Role.OPERATOR), seat(seeded, Role.VIEWER)
    page = operator.go("/rollouts")
    page.get_by_role("link", name="New rollout").click()
    page.get_by_label("Release").fill("press/2")
    page.get_by_label("Name").fill("by hand & <b>carefully</b>")
    page.get_by_label("First", exact=True).fill("2")
    page.get_by_label("unit of the first group").select_option("devices")
    page.get_by_role("button", name="Show its devices").click()
    expect(page.get_by_role("heading", name="9 devices would get press/2")).to_be_visible()
    with LiveDevices(seeded):
        page.get_by_role("button", name="Start with 2 of 9 devices").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("by hand & <b>carefully</b>")
        other = viewer.go(page.url.removeprefix(seeded.url))
        for one in (page, other):
            one.evaluate("() => { window.sameDocument = true }")
            expect(one.locator('[data-region="groups"]')).to_contain_text("soaking", ignore_case=True)
            assert one.evaluate("() => window.sameDocument === true"), "the page was loaded anew"
        confirm(page, "Pause", "Pause")
        for one in (page, other):
            expect(one.locator('[data-region="standing"]')).to_contain_text("paused", ignore_case=True)
        page.get_by_role("link", name="Roll back").click()
        expect(page.get_by_role("heading", name="Roll 2 devices back?")).to_be_visible()
        page.get_by_role("button", name="Roll back 2 devices").click()
        for one in (page, other):
            expect(one.locator('[data-region="standing"]')).to_contain_text("rolled back", ignore_case=True)
    expect(other.get_by_role("link", name="Roll back")).to_have_count(0)
