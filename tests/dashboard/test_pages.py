"""Every page in real headless Chromium, with data and with none: readable by everybody, quiet, and text is text."""

from __future__ import annotations

import pytest
from chromium_viewer import Seats
from dashboard_site import DashboardSite
from page_checks import check_page
from shown_pages import EMPTY_PAGES, MORE_PAGES, SEEDED_PAGES, address

from service.roles import Role

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", SEEDED_PAGES)
def test_a_page_of_a_fleet_with_a_past_is_for_everybody(
    seeded: DashboardSite, seat: Seats, path: str
) -> None:
    check_page(seat(seeded, Role.ADMIN).go(address(seeded, path)))


@pytest.mark.long
@pytest.mark.parametrize("path", MORE_PAGES)
def test_so_is_a_page_in_its_other_states(seeded: DashboardSite, seat: Seats, path: str) -> None:
    check_page(seat(seeded, Role.ADMIN).go(address(seeded, path)))


@pytest.mark.parametrize("path", EMPTY_PAGES)
def test_a_page_of_an_empty_fleet_says_that_there_is_nothing(
    empty: DashboardSite, seat: Seats, path: str
) -> None:
    check_page(seat(empty, Role.ADMIN).go(path))


def test_every_page_is_there_for_who_has_scripts_switched_off(seeded: DashboardSite, seat: Seats) -> None:
    viewer = seat(seeded, Role.ADMIN, java_script_enabled=False)
    for path in SEEDED_PAGES:
        page = viewer.go(address(seeded, path))
        assert page.locator("h1").count() == 1, path
        assert page.get_by_role("navigation", name="main").get_by_role("link").count() >= 9, path
