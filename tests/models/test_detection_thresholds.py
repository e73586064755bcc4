"""Personal thresholds stay within the fleet's clamp; an alarm opens once and closes once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.thresholds import AlarmState, Closed, Opened, effective_threshold, fit_threshold
from protocol.manifest import ThresholdSpec

pytestmark = pytest.mark.edge

SPEC = ThresholdSpec(
    score=2.0, quantile=0.99, margin=1.1, fitted_on=1000, personal_minimum=0.5, personal_maximum=2.0
)


def test_without_enough_personal_scores_the_published_threshold_stands() -> None:
    assert effective_threshold(SPEC, np.array([])) == 2.0
    assert effective_threshold(SPEC, np.full(29, 100.0)) == 2.0


def test_a_device_moves_to_its_own_quantile_times_the_margin() -> None:
    scores = np.linspace(0, 1.5, 200)
    found = fit_threshold(SPEC, scores)
    assert found.value == pytest.approx(float(np.quantile(scores, 0.99)) * 1.1)
    assert not found.is_clamped
    assert found.fitted_on == 200


@pytest.mark.parametrize(("scores", "value"), [(0.01, 1.0), (50.0, 4.0)])
def test_a_device_cannot_leave_the_published_clamp(scores: float, value: float) -> None:
    found = fit_threshold(SPEC, np.full(100, scores))
    assert found.value == value
    assert found.is_clamped


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_scores_that_cannot_be_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        fit_threshold(SPEC, np.append(np.ones(40), bad))


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
    alarm = AlarmState(confirm=1, release=1)
    assert alarm.update(3.0, 1.0) == Opened(score=3.0, threshold=1.0)
    assert alarm.is_open
    assert alarm.update(5.0, 1.0) is None
    assert alarm.update(0.0, 1.0) == Closed(windows=3, peak_score=5.0)
    assert not alarm.is_open


@given(st.lists(st.floats(0, 3), max_size=200), st.integers(1, 4), st.integers(1, 6))
def test_alarms_open_and_close_in_turn(scores: list[float], confirm: int, release: int) -> None:
    names = [name for _, name in play(scores, confirm=confirm, release=release)]
    assert names == ["Opened", "Closed"] * (len(names) // 2) + ["Opened"] * (len(names) % 2)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="confirm ≥ 1"):
        AlarmState(confirm=0)
