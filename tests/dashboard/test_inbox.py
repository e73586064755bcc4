"""Alarms are judged by keyboard, several at once, and taken back; what a viewer may not do is not there for a viewer."""

from __future__ import annotations

import pytest
from chromium_viewer import Seats
from dashboard_site import DashboardSite
from playwright.sync_api import Locator, Page, expect

from service.roles import Role

pytestmark = pytest.mark.slow


def waiting(page: Page) -> int:
    return int(page.get_by_text("for a verdict").locator("strong").inner_text().replace(",", ""))


def said_last(page: Page) -> Locator:
    return page.locator("ul.deeds li").first


def number_of(place: str | None) -> str:
    return (place or "").removeprefix("a-")


def press(page: Page, key: str) -> None:
    """A key that sends a form: until the next page is there."""
    with page.expect_navigation():
        page.keyboard.press(key)


def test_verdicts_are_given_by_keys_the_next_row_is_chosen_and_the_last_one_taken_back(
    seeded: DashboardSite, seat: Seats
) -> None:
    page = seat(seeded, Role.OPERATOR).go("/anomalies")
    before = waiting(page)
    page.keyboard.press("j")
    first, second = (page.locator("[data-row]").nth(number).get_attribute("id") for number in range(2))
    expect(page.locator(f"#{first}")).to_have_attribute("aria-selected", "true")
    press(page, "t")
    assert waiting(page) == before - 1
    expect(said_last(page)).to_contain_text(f"1 × true alarm ({number_of(first)})")
    expect(page.locator(f"#{second}")).to_have_attribute("aria-selected", "true")
    press(page, "f")
    assert waiting(page) == before - 2
    expect(said_last(page)).to_contain_text(f"1 × false alarm ({number_of(second)})")
    press(page, "u")
    assert waiting(page) == before - 1
    expect(page.locator(f"#{second}")).to_be_visible()
    expect(page.locator(f"#{first}")).to_have_count(0)


def test_keys_judge_no_row_that_nobody_has_chosen_and_nothing_while_somebody_types(
    seeded: DashboardSite, seat: Seats
) -> None:
    page = seat(seeded, Role.OPERATOR).go("/anomalies")
    before = waiting(page)
    page.keyboard.press("t")
    page.get_by_label("Device").first.press_sequentially("jtfu")
    expect(page.get_by_label("Device").first).to_have_value("jtfu")
    page.get_by_label("Device").first.fill("")
    expect(page.locator("[data-row][aria-selected=true]")).to_have_count(0)
    page.reload()
    assert waiting(page) == before


def test_several_are_judged_at_once_without_any_script(seeded: DashboardSite, seat: Seats) -> None:
    page = seat(seeded, Role.OPERATOR, java_script_enabled=False).go("/anomalies")
    before = waiting(page)
    for number in (1, 2, 3):
        page.locator("[data-row]:not(.storm) input[type=checkbox]").nth(number).check()
    page.get_by_label("Note").fill("a forklift <b>drove</b> by")
    page.get_by_role("button", name="False alarms").click()
    assert waiting(page) == before - 3
    expect(page.get_by_text("3 × false alarm")).to_be_visible()
    page.get_by_role("button", name="Undo").first.click()
    assert waiting(page) == before


def test_a_storm_is_one_row_and_is_judged_with_one_key(seeded: DashboardSite, seat: Seats) -> None:
    page = seat(seeded, Role.OPERATOR).go("/anomalies?family=motor")
    storm = page.locator("[data-row].storm")
    expect(storm).to_have_count(1)
    expect(storm).to_contain_text("120 alarms of 24 devices")


def test_a_viewer_reads_the_inbox_and_judges_nothing(seeded: DashboardSite, seat: Seats) -> None:
    page = seat(seeded, Role.VIEWER).go("/anomalies")
    expect(page.get_by_role("button", name="true alarm")).to_have_count(0)
    page.keyboard.press("j")
    page.keyboard.press("t")
    expect(page).to_have_url(f"{seeded.url}/anomalies")
