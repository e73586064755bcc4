"""Personal thresholds stay within the fleet's clamp; an alarm opens once and closes once."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InputError
from models.thresholds import AlarmState, Closed, Opened, personal_threshold
from protocol.manifest import ThresholdSpec

pytestmark = pytest.mark.edge

SPEC = ThresholdSpec(
    score=2.0, quantile=0.99, margin=1.1, fitted_on=1000, personal_minimum=0.5, personal_maximum=2.0
)


def test_without_enough_personal_scores_the_published_threshold_stands() -> None:
    assert personal_threshold(SPEC, np.array([])).value == 2.0
    assert personal_threshold(SPEC, np.full(29, 100.0)).value == 2.0


def test_a_device_moves_to_its_own_quantile_times_the_margin() -> None:
    scores = np.linspace(0, 1.5, 200)
    found = personal_threshold(SPEC, scores)
    assert found.value == pytest.approx(float(np.quantile(scores, 0.99)) * 1.1)
    assert found.value == found.wanted
    assert found.fitted_on == 200


@pytest.mark.parametrize(("scores", "value"), [(0.01, 1.0), (50.0, 4.0)])
def test_a_device_cannot_leave_the_published_clamp(scores: float, value: float) -> None:
    found = personal_threshold(SPEC, np.full(100, scores))
    assert found.value == value
    assert found.value != found.wanted


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_scores_that_cannot_be_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="finite and not negative"):
        personal_threshold(SPEC, np.append(np.ones(40), bad))


def play(scores: list[float], **settings: int) -> list[tuple[int, str]]:
    alarm, events = AlarmState(**settings), []  # type: ignore[arg-type]  # integers for integer settings
    for i, s in enumerate(scores):
        event = alarm.update(s, 1.0)
        if event is not None:
            events.append((i, type(event).__name__))
    return events


def test_one_window_over_the_threshold_is_not_an_alarm() -> None:
    assert play([0, 2, 0, 0, 2, 0, 0]) == []


def test_two_of_the_last_three_open_it_once() -> None:
    assert play([0, 2, 0, 2, 2, 2]) == [(3, "Opened")]
    assert play([2, 2]) == [(1, "Opened")]


def test_it_closes_after_five_calm_windows_in_a_row_and_can_open_again() -> None:
    calm = [0.0] * 5
    assert play([2, 2, *calm, 2, 2]) == [(1, "Opened"), (6, "Closed"), (8, "Opened")]
    assert play([2, 2, 0, 0, 0, 0, 0.95, *calm]) == [(1, "Opened"), (11, "Closed")]


def test_just_below_the_threshold_does_not_close_it() -> None:
    assert play([2, 2, *[0.95] * 20]) == [(1, "Opened")]


def test_a_broken_score_counts_as_over() -> None:
    assert play([float("nan"), float("nan")]) == [(1, "Opened")]


def test_the_events_tell_what_happened() -> None:
    alarm = AlarmState(opens_after_windows=1, closes_after_windows=1)
    assert (alarm.windows, alarm.windows_over, alarm.peak_score) == (0, 0, 0.0)
    assert alarm.update(3.0, 1.0) == Opened(score=3.0, threshold=1.0)
    assert alarm.is_open
    assert alarm.update(5.0, 1.0) is None
    assert alarm.update(0.0, 1.0) == Closed(windows=3, windows_over=2, peak_score=5.0)
    assert not alarm.is_open


@given(st.lists(st.floats(0, 3), max_size=200), st.integers(1, 4), st.integers(1, 6))
def test_alarms_open_and_close_in_turn(scores: list[float], opens: int, closes: int) -> None:
    names = [name for _, name in play(scores, opens_after_windows=opens, closes_after_windows=closes)]
    assert names == ["Opened", "Closed"] * (len(names) // 2) + ["Opened"] * (len(names) % 2)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="opens_after_windows ≥ 1"):
        AlarmState(opens_after_windows=0)


# The limits that guard people, as literals: 30 scores are the fewest that say anything about a tail; two of three windows open an
# alarm; five in a row below nine tenths of the threshold close it.
def test_thirty_personal_scores_are_enough_and_a_score_of_zero_is_one() -> None:
    assert personal_threshold(SPEC, np.full(29, 1.5)).value == 2.0
    assert personal_threshold(SPEC, np.full(30, 1.5)).value == pytest.approx(1.65)
    assert personal_threshold(SPEC, np.zeros(30)).wanted == 0.0


def test_a_threshold_on_the_edge_of_the_clamp_is_the_devices_own() -> None:
    exact = ThresholdSpec(
        score=2.0, quantile=0.5, margin=1.0, fitted_on=1, personal_minimum=0.5, personal_maximum=2.0
    )
    for edge in (1.0, 4.0):
        found = personal_threshold(exact, np.full(30, edge))
        assert (found.value, found.wanted) == (edge, edge)


def test_the_first_thirty_scores_are_counted_also_where_the_published_threshold_stands() -> None:
    found = personal_threshold(SPEC, np.ones(29))
    assert (found.value, found.wanted, found.fitted_on) == (2.0, 2.0, 29)


def test_a_score_equal_to_the_threshold_is_not_over_it() -> None:
    assert play([1.0] * 9) == []
    assert play([1.0001] * 2) == [(1, "Opened")]


def test_nine_tenths_of_the_threshold_is_not_yet_calm() -> None:
    assert play([2, 2, *[0.9] * 9]) == [(1, "Opened")]
    assert play([2, 2, *[0.8999] * 5]) == [(1, "Opened"), (6, "Closed")]


def test_the_hysteresis_follows_the_threshold() -> None:
    alarm = AlarmState()
    for score in (20.0, 20.0, *[8.9] * 4):
        alarm.update(score, 10.0)
    assert alarm.update(8.9, 10.0) == Closed(windows=6, windows_over=1, peak_score=20.0)


def test_four_calm_windows_and_one_that_is_not_begin_again() -> None:
    assert play([2, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0]) == [(1, "Opened")]


def test_windows_further_apart_than_three_do_not_open_it_and_neither_does_what_was_before_the_last_alarm() -> (
    None
):
    assert play([2, 0, 0, 2, 0, 0, 2]) == []
    assert play([2, 2, *[0] * 5, 2, 0, 0]) == [(1, "Opened"), (6, "Closed")]


def test_an_alarm_tells_its_own_windows_and_its_own_peak() -> None:
    alarm = AlarmState()
    told = [alarm.update(score, 1.0) for score in (9, 9, 0, 0, 0, 0, 0, 3, 2, 5, 0, 0, 0, 0, 0)]
    assert [event for event in told if isinstance(event, Closed)] == [
        Closed(windows=6, windows_over=1, peak_score=9),
        Closed(windows=7, windows_over=2, peak_score=5),
    ]


def test_an_alarm_that_goes_on_after_a_restart_adds_to_its_totals() -> None:
    alarm = AlarmState()
    alarm.resume(windows=40, windows_over=30, peak_score=7.0)
    told = [alarm.update(score, 1.0) for score in (3, 3, 0, 0, 0, 0, 0)]
    assert told[:-1] == [None] * 6
    assert told[-1] == Closed(windows=47, windows_over=32, peak_score=7.0)


def test_a_reset_forgets_an_open_alarm_and_the_window_before_it() -> None:
    alarm = AlarmState()
    alarm.update(2.0, 1.0)
    alarm.reset()
    assert alarm.update(2.0, 1.0) is None
    assert alarm.update(2.0, 1.0) is not None
    alarm.reset()
    assert not alarm.is_open
    assert alarm.update(2.0, 1.0) is None


@pytest.mark.parametrize("wrong", [(0, 5, 0.9), (2, 0, 0.9), (2, 5, 0.0), (2, 5, 1.01), (2, 5, float("nan"))])
def test_each_setting_that_makes_no_sense_is_refused_by_its_value(wrong: tuple[int, int, float]) -> None:
    names = tuple(inspect.signature(AlarmState).parameters)
    with pytest.raises(ValueError, match=re.escape(", ".join(map(str, wrong)))):
        AlarmState(**dict(zip(names, wrong, strict=True)))  # type: ignore[arg-type]
    AlarmState(**dict(zip(names, (1, 1, 1.0), strict=True)))  # type: ignore[arg-type]
