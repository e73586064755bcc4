"""Charts: what is drawn is where it is, whatever the numbers are, and no text becomes markup."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from fleet.dashboard.charts.bars import Bar, draw_bars
from fleet.dashboard.charts.lines import Band, Happening, Lasting, TimeAxis, draw_lines, sparkline
from fleet.dashboard.charts.scale import Scale, time_ticks
from fleet.dashboard.charts.shares import Share, draw_shares
from fleet.dashboard.charts.windows import draw_channels, read_window, thumbnail
from fleet.lookups.series import Reading

DAY_S = 86_400.0
HOSTILE = '"><script>alert(1)</script>'


def parsed(drawing: str) -> ET.Element:
    """As XML: whatever it says, it is well-formed."""
    return ET.fromstring(str(drawing))  # noqa: S314 - of our own making


def paths(drawing: str) -> list[list[tuple[float, float]]]:
    found = [element.get("d", "") for element in parsed(drawing).iter() if element.tag.endswith("path")]
    return [[(float(x), float(y)) for x, y in re.findall(r"([-\d.e+]+),([-\d.e+]+)", path)] for path in found]


def test_a_band_goes_along_its_highest_values_and_back_along_its_lowest() -> None:
    axis = TimeAxis(start=0, until=100, gap_s=60)
    band = Band(name="score", readings=[Reading(0, 1, 2), Reading(50, 0, 4)])
    drawing = draw_lines([band], axis, Scale(low=0, high=4), title="Score", height=128)
    (points,) = paths(drawing)
    assert points == [(0, 50), (500, 0), (500, 100), (0, 75)]
    assert "score: 0 to 4, last 4" in parsed(drawing).get("aria-label", "")


def test_silence_is_a_gap_and_never_drawn_through() -> None:
    axis = TimeAxis(start=0, until=100, gap_s=10)
    band = Band(name="x", readings=[Reading(at, 1, 1) for at in (0, 5, 10, 50, 55)])
    drawing = draw_lines([band], axis, Scale(low=0, high=2), title="x")
    (d,) = re.findall(r' d="([^"]+)"', str(drawing))
    assert d.count("M") == 2


def test_what_happens_stands_on_the_axis_of_time_and_says_what_it_was() -> None:
    axis = TimeAxis(
        start=0,
        until=100,
        gap_s=10,
        happenings=[
            Happening(at=25, words=HOSTILE, kind="release"),
            Happening(at=500, words="", kind="release"),
        ],
        lastings=[Lasting(start=-50, until=50, words="in alarm", kind="alarm")],
    )
    drawing = draw_lines([Band(name=HOSTILE, readings=[])], axis, Scale(low=0, high=1), title=HOSTILE)
    (rule,) = [one for one in parsed(drawing).iter() if "rule" in one.get("class", "")]
    assert rule.get("x1") == "25%"
    (span,) = [one for one in parsed(drawing).iter() if "span" in one.get("class", "")]
    assert (span.get("x"), span.get("width")) == ("0%", "50%")
    assert "<script" not in str(drawing)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e308, -1e308, 5e-324, 0.0])
def test_no_number_breaks_a_chart(value: float) -> None:
    axis = TimeAxis(start=0, until=100, gap_s=10)
    readings = [Reading(10, value, value), Reading(12, 0.5, value)]
    upright = Scale.over([value, 1.0])
    drawing = draw_lines([Band(name="x", readings=readings)], axis, upright, title="x", unit="ms")
    for points in paths(drawing):
        assert all(math.isfinite(number) for point in points for number in point)
    assert 0 < len(upright.ticks()) <= 12
    parsed(sparkline([value, 1.0, value], title="x"))
    parsed(
        draw_shares([Share(at=5, value=value, low=value, high=value, words="")], start=0, until=9, title="x")
    )


@pytest.mark.parametrize("span", [60.0, 3600.0, DAY_S, 7 * DAY_S, 90 * DAY_S, 4000 * DAY_S, 1e12])
def test_times_on_an_axis_are_round_and_few(span: float) -> None:
    ticks = time_ticks(1_767_225_601.0, 1_767_225_601.0 + span)
    assert len(ticks) <= 13
    assert all(0 <= tick.place <= 1 for tick in ticks)
    assert span < 120 or ticks


def test_bars_stand_on_each_other() -> None:
    bars = [
        Bar(start=0, until=50, counts={"true": 3, "false": 1}),
        Bar(start=50, until=100, counts={"true": 0, "false": 0}),
    ]
    drawing = draw_bars(
        bars,
        start=0,
        until=100,
        title="Verdicts",
        words={"true": "true alarms", "false": "false"},
        height=128,
    )
    boxes = [one for one in parsed(drawing).iter() if one.tag.endswith("rect")]
    assert [(one.get("y"), one.get("height")) for one in boxes] == [("35", "75"), ("10", "25")]


def test_of_a_long_window_no_peak_is_lost() -> None:
    values = np.zeros((20_000, 2), np.float32)
    values[7777, 1] = 9.0
    channels = draw_channels(values, (), ("ch2.rms",), None)
    assert [channel.is_blamed for channel in channels] == [True, False]
    assert channels[0].value == "0 to 9"
    assert channels[0].drawing is not None
    (points,) = paths(channels[0].drawing)
    assert len(points) <= 800
    assert min(y for _, y in points) < 5
    assert len(thumbnail(values, (), ("ch2.rms",))) < 2500


def test_a_window_is_believed_only_where_its_bytes_are_what_its_shape_says() -> None:
    content = np.arange(6, dtype="<f4").tobytes()
    whole = read_window(content, [3, 2])
    assert whole is not None
    assert whole.shape == (3, 2)
    for shape in ([], [6, 2], [-3, -2], [3, 2, 1], ["3", 2], [2**62, 4], [0, 0], [None]):
        assert read_window(content, shape) is None, shape
    assert read_window(content[:-1], [3, 2]) is None
    assert read_window(None, [3, 2]) is None
    flat = read_window(content, [6])
    assert flat is not None
    (first, *_) = draw_channels(flat, tuple("abcdef"), ("c",), None)
    assert (first.name, first.value, first.drawing) == ("c", "2", None)


def test_a_window_of_nothing_but_gaps_is_drawn_empty() -> None:
    nothing = np.full((8, 1), np.nan, np.float32)
    (channel,) = draw_channels(nothing, (), (), 1.0)
    assert channel.value == "? to ?"
    parsed(thumbnail(nothing, (), ()))
