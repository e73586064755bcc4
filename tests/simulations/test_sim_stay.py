"""The dashboard of a played world: its link is on the screen, and with ``--stay`` it is there until somebody ends it."""

from __future__ import annotations

import io
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from simulations import playing
from simulations.record import Record
from simulations.screen import Screen


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_link_into_the_dashboard_is_on_the_screen_while_it_can_be_used(is_terminal: bool) -> None:
    seen = io.StringIO()
    with Screen(Console(file=seen, force_terminal=is_terminal, width=120)) as screen:
        record = Record(title="t", chapters=[])
        screen.update(record)
        assert "https" not in seen.getvalue()
        record.sign_in_link = "https://127.0.0.1:1/sign-in?code=abc"
        screen.update(record)
    assert "five minutes: https://127.0.0.1:1/sign-in?code=abc" in seen.getvalue()


def test_who_stays_has_a_link_that_can_be_used_and_ends_it_with_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first answer finds the fleet away; of the links that come afterwards none is older than it may be."""
    links = iter(["", *(f"https://fleet/sign-in?code={n}" for n in range(100))])
    ticks = itertools.count()

    def tick() -> None:
        if next(ticks) == 700:  # seconds
            raise KeyboardInterrupt

    monkeypatch.setattr("simulations.playing.time.sleep", lambda _: None)
    seen = io.StringIO()
    parts: Any = (
        SimpleNamespace(tick=tick),
        SimpleNamespace(clock=itertools.count(0.0, 0.5).__next__, sign_in_link=links.__next__),
        Console(file=seen, width=120),
    )
    playing._stay(*parts)
    said = seen.getvalue().splitlines()
    assert said[0] == "Everything stays up, and machines go on, until Ctrl-C."
    assert said[1] == "the fleet is away for the moment"
    assert said[2].endswith("https://fleet/sign-in?code=0")
    assert said[3].endswith("https://fleet/sign-in?code=1")
    assert said[-1] == "Stopping everything that was started."
    assert len(said) <= 6
