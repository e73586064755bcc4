"""The five walks of docs/operations.md, played in Chromium by the words of that page."""

from __future__ import annotations

import pytest
from chromium_viewer import Seats
from dashboard_site import DashboardSite
from walks import play, read_walks

from service.roles import Role

pytestmark = pytest.mark.slow
WALKS = read_walks()


def test_the_document_has_the_walks_that_are_played() -> None:
    assert len(WALKS) == 5
    assert all(walk.steps for walk in WALKS.values())


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_goes_as_it_is_written(seeded: DashboardSite, seat: Seats, title: str) -> None:
    page = seat(seeded, Role.OPERATOR).go("/")
    for step in WALKS[title].steps:
        play(page, step)
