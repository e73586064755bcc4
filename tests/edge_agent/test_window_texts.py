"""What a driver says may hold a window: it is left out, and how long that takes is not the driver's to choose."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edge_agent.window_texts import LEFT_OUT, without_windows

pytestmark = pytest.mark.edge

ROW = np.array([1.0, -2.5, 0.0, 4.0, 1e-9, 3e12])


@pytest.mark.parametrize(
    "row",
    [str(ROW), repr(ROW), str(ROW.round()), repr(ROW.round().tolist()), "1. 2. 3. 4.", ".5;.25;1e3;7"],
)
def test_values_in_a_row_are_left_out_however_they_are_written(row: str) -> None:
    told = without_windows(f"cannot read {row} of bearing 3")
    assert LEFT_OUT in told
    assert not set("12345") & set(told.replace("bearing 3", ""))


@pytest.mark.parametrize(
    "text", ["1" * 400 + " " + "2" * 400 + " " + "3" * 400 + " x", "7" * 4000, "1.2 " * 3 + "." * 4000]
)
def test_a_drivers_text_does_not_hold_the_agent_up(text: str) -> None:
    started = time.process_time()
    without_windows(text)
    # Three long numbers took 4 s of fifty digits, and for ever of four hundred; now it is a millisecond.
    assert time.process_time() - started < 1.0
