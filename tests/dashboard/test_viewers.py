"""Two people look at one fleet: each sees what their role allows, both see it change, and who is signed out sees no more."""

from __future__ import annotations

import re

import pytest
from chromium_viewer import Seats, Viewer, sign_in
from dashboard_site import PEOPLE, DashboardSite
from live_devices import LiveDevices
from playwright.sync_api import Browser, expect

from service.roles import Role

pytestmark = pytest.mark.slow


def test_an_alarm_appears_in_front_of_two_people_without_a_reload_and_takes_no_focus(
    seeded: DashboardSite, seat: Seats
) -> None:
    operator, viewer = seat(seeded, Role.OPERATOR), seat(seeded, Role.VIEWER)
    pages = [one.go("/") for one in (operator, viewer)]
    for page in pages:
        expect(page.locator("#pulse")).to_contain_text("live")
        page.evaluate("() => { window.sameDocument = true }")
    pages[0].get_by_role("link", name="Devices", exact=True).focus()
    before = int(pages[0].get_by_role("link", name="without a verdict").locator(".count").inner_text())
    with LiveDevices(seeded) as devices:
        devices.alarm("motor-01", release="motor/2", episode="e-live")
        for page in pages:
            card = page.get_by_role("link", name="without a verdict").locator(".count")
            expect(card).to_have_text(str(before + 1))
            assert page.evaluate("() => window.sameDocument === true"), "the page was loaded anew"
    expect(pages[0].get_by_role("link", name="Devices", exact=True)).to_be_focused()


def test_what_came_while_somebody_was_at_a_region_is_shown_once_they_have_left_it(
    seeded: DashboardSite, seat: Seats
) -> None:
    page = seat(seeded, Role.VIEWER).go("/")
    expect(page.locator("#pulse")).to_contain_text("live")
    card = page.get_by_role("link", name="without a verdict")
    before = int(card.locator(".count").inner_text())
    card.focus()
    with LiveDevices(seeded) as devices:
        devices.alarm("motor-02", release="motor/2", episode="e-held")
        while not page.evaluate("() => Object.keys(late).length"):
            page.wait_for_timeout(100)
    expect(card).to_be_focused()
    assert card.locator(".count").inner_text() == str(before), "nothing moves under a hand"
    card.blur()
    expect(card.locator(".count")).to_have_text(str(before + 1))


def test_the_service_says_how_long_what_it_signed_still_holds(seeded: DashboardSite, seat: Seats) -> None:
    page = seat(seeded, Role.VIEWER).go("/service")
    for role in ("root", "targets", "timestamp", "family-motor"):
        line = page.locator("dt", has_text=re.compile(f"Trust: {role}$")).locator(
            "xpath=following-sibling::dd[1]"
        )
        expect(line).to_contain_text("left")


def test_who_is_signed_out_by_somebody_else_sees_no_more_of_an_open_page(
    browser: Browser, seeded: DashboardSite, seat: Seats
) -> None:
    cookies = sign_in(browser, seeded, Role.VIEWER)
    with Viewer(browser, seeded, cookies) as guest:
        page = guest.go("/devices")
        expect(page.locator("#pulse")).to_contain_text("live")
        ending = seat(seeded, Role.ADMIN).go("/sessions")
        mine = ending.locator("tr", has_text=PEOPLE[Role.VIEWER]).first
        mine.get_by_role("button", name="End").click()
        expect(ending.get_by_text("that browser is signed out")).to_be_visible()
        page.wait_for_url("**/sign-in**")
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        assert page.get_by_text("motor-01").count() == 0
