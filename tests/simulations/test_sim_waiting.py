"""A story waits for as long as the world comes on, and ends with words when it does not."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from simulations.errors import StoryError
from simulations.record import NO_HEALTH, DeviceSeen, Record, is_away
from simulations.story import Story


def waiting(tmp_path: Path, record: Record, on_tick: Any) -> Story:
    world = SimpleNamespace(
        scenario=SimpleNamespace(patience_s=0.2),
        directory=tmp_path,
        supervisor=SimpleNamespace(tick=list),
    )
    observer = SimpleNamespace(clock=itertools.count(1.0, 0.1).__next__, look=lambda: None)
    screen = SimpleNamespace(update=lambda _: None)
    parts: Any = {"world": world, "observer": observer, "screen": screen}
    return Story(record=record, on_tick=on_tick, **parts)


def seen(*, drifted: bool) -> DeviceSeen:
    return DeviceSeen(
        device="d01", hardware="rpi4", health=msgspec.structs.replace(NO_HEALTH, drifted=drifted)
    )


def test_what_comes_and_goes_for_ever_is_waited_for_in_vain_and_said(tmp_path: Path) -> None:
    record = Record(title="t", chapters=[])
    turns = itertools.count()

    def flap(_: Record) -> None:
        record.devices["d01"] = seen(drifted=next(turns) % 2 == 0)

    story = waiting(tmp_path, record, flap)
    said = r"waited \d+ s for a run, in vain \(10% have drifted\); the logs are in"
    with pytest.raises(StoryError, match=said):
        story._wait(lambda: next(turns) > 10_000, "a run", lambda: "10% have drifted")


def test_a_machine_that_a_person_called_normal_has_drifted_all_the_same() -> None:
    assert is_away(msgspec.structs.replace(NO_HEALTH, drift_accepted=True))
    assert not is_away(NO_HEALTH)
