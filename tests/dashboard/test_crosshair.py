"""What charts say where they are pointed at: all of a page at one moment, and at rest what they said before."""

from __future__ import annotations

import re

import pytest
from chromium_viewer import Seats
from dashboard_site import DashboardSite
from playwright.sync_api import Locator, Page, expect

from service.roles import Role

pytestmark = pytest.mark.slow

MOMENT = re.compile(r"^\d{1,2} \w{3},? \d\d:\d\d:\d\d UTC · ")


def told(page: Page, name: str) -> str:
    return page.locator(f"[data-figure={name}] output").inner_text()


def moments_of(page: Page, names: list[str]) -> set[str]:
    return {match[0] for name in names if (match := MOMENT.match(told(page, name)))}


def point_at(page: Page, chart: Locator, share: float) -> None:
    """At a share of the width of a chart."""
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def test_pointing_at_one_chart_has_every_chart_say_what_it_says_at_that_moment(
    seeded: DashboardSite, seat: Seats
) -> None:
    page = seat(seeded, Role.VIEWER).go("/devices/motor-01")
    score = page.locator("[data-figure=score] svg[data-chart]")
    names = [one.get_attribute("data-figure") or "" for one in page.locator("[data-figure]").all()]
    before = {name: told(page, name) for name in names}
    assert len(names) > 3

    point_at(page, score, 0.9)
    moments = moments_of(page, names)
    assert len(moments) == 1, "one moment on all of them"
    assert re.search(r"score [\d.]+.*threshold [\d.]+", told(page, "score"))
    assert re.search(r"Memory [\d.]+( to [\d.]+)? MB", told(page, "memory_bytes"))
    expect(page.locator("line.cross.on")).to_have_count(len(names))
    at = {float((one.get_attribute("x1") or "").rstrip("%")) for one in page.locator("line.cross").all()}
    assert len(at) == 1
    assert abs(at.pop() - 90) < 1

    point_at(page, score, 0.5)
    assert not moments & moments_of(page, names)

    page.mouse.move(5, 5)
    expect(page.locator("line.cross.on")).to_have_count(0)
    assert {name: told(page, name) for name in names} == before


def test_where_nothing_was_told_a_chart_says_so(seeded: DashboardSite, seat: Seats) -> None:
    page = seat(seeded, Role.VIEWER).go("/devices/motor-01?span=90d")
    score = page.locator("[data-figure=score] svg[data-chart]")
    point_at(page, score, 0.02)
    assert told(page, "score").endswith(("nothing was told", "threshold 1")), told(page, "score")
